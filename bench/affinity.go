//go:build linux

package main

import (
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// lastProcessor returns the processor that the sink runs on.
func lastProcessor() *unix.CPUSet {
	var set unix.CPUSet
	set.Set(runtime.NumCPU() - 1)
	return &set
}

// leaveLast moves this process off the last processor, if there are several, and
// returns a function that undoes it.
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

// moveTo restricts the threads of this process, and those they start later, to these
// processors. If that fails, the scheduler chooses.
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
