package socket

// connList is a list of connections, linked through them so that moving one
// allocates nothing. A connection is in one list at most.
type connList struct {
	first, last *conn
	length      int
}

// push puts c at the end.
func (l *connList) push(c *conn) {
	c.in, c.prev, c.next = l, l.last, nil
	if l.last != nil {
		l.last.next = c
	} else {
		l.first = c
	}
	l.last = c
	l.length++
}

// remove takes c out, if it is in this list.
func (l *connList) remove(c *conn) {
	if c.in != l {
		return
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.last = c.prev
	}
	c.in, c.prev, c.next = nil, nil, nil
	l.length--
}
