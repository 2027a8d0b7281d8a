//go:build linux

package main

import (
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed epoll/server.c
var epollSource []byte

// server says how to start one of the servers under comparison.
type server struct {
	name string
	argv func(port string) []string
	cpus int // GOMAXPROCS; zero: not set
}

// build compiles both servers into dir. The first one is the base of the comparison.
func build(dir string) ([]server, error) {
	source := filepath.Join(dir, "server.c")
	if err := os.WriteFile(source, epollSource, 0o600); err != nil {
		return nil, err
	}
	c, hello := filepath.Join(dir, "epoll"), filepath.Join(dir, "hello")
	if err := command("cc", "-O2", "-o", c, source); err != nil {
		return nil, err
	}
	if err := command("go", "build", "-o", hello, "github.com/reusetransport/reuseport/examples/hello"); err != nil {
		return nil, err
	}
	run := func(port string) []string { return []string{hello, "-port", port, "-max", "19000", "-timeout", "60s"} }
	return []server{
		{"C epoll, 1 thread", func(port string) []string { return []string{c, port} }, 0},
		{"examples/hello", run, 0},
		{"examples/hello, GOMAXPROCS=1", run, 1},
	}, nil
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// self returns the arguments that run this program in a role.
func self(role string, args ...int) []string {
	argv := []string{"/proc/self/exe", "-role", role}
	for _, a := range args {
		argv = append(argv, strconv.Itoa(a))
	}
	return argv
}

// process is a child that ends when we do, at the latest.
type process struct{ *exec.Cmd }

func child(argv []string, env ...string) process {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return process{cmd}
}

func (p process) stop() {
	_ = p.Process.Kill() // it may have ended
	_ = p.Wait()         // the error says that it was killed
}

// run starts the server on a free port of 127.0.0.1 and waits until it listens.
func (s server) run() (process, int, error) {
	port, err := freePort()
	if err != nil {
		return process{}, 0, err
	}
	var env []string
	if s.cpus > 0 {
		env = []string{"GOMAXPROCS=" + strconv.Itoa(s.cpus)}
	}
	p := child(s.argv(strconv.Itoa(port)), env...)
	if err := p.Start(); err != nil {
		return process{}, 0, err
	}
	for range 200 {
		c, err := net.Dial("tcp4", "127.0.0.1:"+strconv.Itoa(port))
		if err == nil {
			return p, port, c.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.stop()
	return process{}, 0, fmt.Errorf("%s does not listen", s.name)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

// cpu returns the CPU time that p has used, summed from schedstat of its living
// threads.
func (p process) cpu() (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.Process.Pid))
	if err != nil {
		return 0, err
	}
	var total time.Duration
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		if err != nil {
			return 0, err
		}
		ns, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(ns)
	}
	return total, nil
}

// resident returns the resident memory of p in bytes.
func (p process) resident() (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.Process.Pid))
	if err != nil {
		return 0, err
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	return pages * os.Getpagesize(), err
}
