//go:build !linux

package serve

// watchSet watches nothing, so a goroutine waits for each connection.
type watchSet struct{}

func (watchSet) watch(*parking, *conn, uintptr) (stale *conn, ok bool) { return nil, false }
func (watchSet) sweep(*parking) []*conn                                { return nil }
func (watchSet) leave(*conn)                                           {}
func (watchSet) close()                                                {}
