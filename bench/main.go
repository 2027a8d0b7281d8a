//go:build linux

package main

import (
	"flag"
	"log/slog"
	"os"
	"strings"
)

func main() {
	run := realMain
	if isWorker() {
		run = serveWorker
	}
	if err := run(); err != nil {
		slog.Error("bench failed", "err", err)
		os.Exit(1)
	}
}

// realMain measures, prints the table and writes the files.
func realMain() error {
	quick := flag.Bool("quick", false, "less than two minutes, with wider spread")
	match := flag.String("run", "", "only the scenarios whose name matches this regular expression")
	peers := flag.String("peers", "", "only these implementations, separated by commas")
	out := flag.String("out", "", "directory for bench.md, bench.txt (benchstat), bench.json and bench-*.svg")
	flag.Parse()
	scale := "full"
	if *quick {
		scale = "quick"
	}
	p, rows, err := newPlan(scale, *match, strings.FieldsFunc(*peers, func(r rune) bool { return r == ',' }))
	if err != nil {
		return err
	}
	r := newReport(commandLine(), rows, p.runAll(rows))
	if err := r.writeTable(os.Stdout); err != nil {
		return err
	}
	if *out != "" {
		if err := r.writeFiles(*out); err != nil {
			return err
		}
	}
	return r.unmeasured()
}

// commandLine returns the command that repeats this run.
func commandLine() string {
	line := "cd bench && go run ."
	for _, arg := range os.Args[1:] {
		if strings.ContainsAny(arg, " |()[]*?$^\\") {
			arg = "'" + arg + "'"
		}
		line += " " + arg
	}
	return line
}
