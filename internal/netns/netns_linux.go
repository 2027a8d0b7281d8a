package netns

import (
	"strconv"

	"golang.org/x/sys/unix"
)

func here() Place { return Place{unix.Gettid()} }

func (p Place) isShared() bool {
	there, ok := namespace("/proc/self/task/" + strconv.Itoa(p.thread) + "/ns/net")
	mine, okMine := namespace("/proc/thread-self/ns/net")
	return !ok || !okMine || mine == there
}

// An id is the identity of a namespace (namespaces(7)).
type id struct{ dev, inode uint64 }

func namespace(path string) (id, bool) {
	var s unix.Stat_t
	err := unix.Stat(path, &s)
	return id{uint64(s.Dev), s.Ino}, err == nil
}
