//go:build !linux

package serve

// watchSet is empty: a goroutine waits for each connection.
type watchSet struct{}

func (watchSet) enter(*parking, *conn, uintptr) (stale *conn, ok bool) { return nil, false }
func (watchSet) watch(uintptr, uint32, bool) bool                      { return false }
func (watchSet) sweep(*parking) []*conn                                { return nil }
func (watchSet) leave(*conn)                                           {}
func (watchSet) close()                                                {}
