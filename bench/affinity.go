//go:build linux

package main

import (
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// lastProcessor is where the sink lives.
func lastProcessor() *unix.CPUSet {
	var set unix.CPUSet
	set.Set(runtime.NumCPU() - 1)
	return &set
}

// leaveLast moves this process off the last processor, where there are several, and
// returns what undoes it.
func leaveLast() (undo func()) {
	var all, rest unix.CPUSet
	for i := range runtime.NumCPU() {
		all.Set(i)
		rest.Set(i)
	}
	if runtime.NumCPU() > 1 {
		rest.Clear(runtime.NumCPU() - 1)
	}
	moveTo(&rest)
	return func() { moveTo(&all) }
}

// moveTo lets the threads of this process run on these processors alone. Those that
// start later inherit it. Where they are not to be had the scheduler chooses.
func moveTo(set *unix.CPUSet) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, thread := range threads {
		if tid, err := strconv.Atoi(thread.Name()); err == nil {
			_ = unix.SchedSetaffinity(tid, set) // the thread may have ended
		}
	}
}
