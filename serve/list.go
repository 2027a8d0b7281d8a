package serve

// list is a doubly linked list of connections in the order in which they were parked.
// With one IdleTimeout that is also the order of their deadlines. The links are part
// of the connections, so a list allocates nothing and removes in O(1).
type list struct {
	first, last *conn
	n           int
}

func (l *list) push(c *conn) {
	c.prev, c.after = l.last, nil
	if l.last == nil {
		l.first = c
	} else {
		l.last.after = c
	}
	l.last = c
	l.n++
}

func (l *list) remove(c *conn) {
	if c.prev == nil {
		l.first = c.after
	} else {
		c.prev.after = c.after
	}
	if c.after == nil {
		l.last = c.prev
	} else {
		c.after.prev = c.prev
	}
	c.prev, c.after = nil, nil
	l.n--
}
