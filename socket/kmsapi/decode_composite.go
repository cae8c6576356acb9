package kmsapi

import "strconv"

// enum reads a string and matches it against the values of its type without allocating.
func enum[E ~string](d *decoder, name string, values []E, dst *E) (present bool) {
	if !d.value('"', "a String") {
		return false
	}
	text := d.text()
	for _, v := range values {
		if string(text) == string(v) {
			*dst = v
			return true
		}
	}
	*dst = E(text)
	d.fault(name, quoted(string(*dst)), enumConstraint(values))
	return true
}

// enums reads a list of enum values.
func enums[E ~string](d *decoder, name string, values []E, dst *[]E) (present bool) {
	if !d.list() {
		return false
	}
	list, bad := []E{}, false
	for d.item() {
		if !d.value('"', "a String") {
			d.nullItem(name, len(list)+1)
			list = append(list, "")
			continue
		}
		text, known := d.text(), false
		for _, v := range values {
			if known = string(text) == string(v); known {
				list = append(list, v)
				break
			}
		}
		if !known {
			bad, list = true, append(list, E(text))
		}
	}
	*dst = list
	if bad {
		d.fault(name, quotedList(list), memberConstraint([]string{enumConstraint(values)}))
	}
	return true
}

// strings reads a list of strings.
func (d *decoder) strings(name string, shape *listShape, member *stringShape, dst *[]string) (present bool) {
	if !d.list() {
		return false
	}
	list, bad := []string{}, false
	for d.item() {
		if !d.value('"', "a String") {
			d.nullItem(name, len(list)+1)
			list = append(list, "")
			continue
		}
		s := string(d.text())
		bad = bad || !member.allows(s)
		list = append(list, s)
	}
	*dst = list
	d.checkList(name, shape, list)
	if bad {
		d.fault(name, quotedList(list), memberConstraint(member.constraints()))
	}
	return true
}

// object reads a nested structure.
func object[T any, P structure[T]](d *decoder, name string, dst *P) (present bool) {
	if !d.object() {
		return false
	}
	mark := d.enter(name)
	*dst = new(T)
	(*dst).decode(d)
	d.leave(mark)
	return true
}

// objects reads a list of structures.
func objects[T any, P structure[T]](d *decoder, name string, dst *[]T) (present bool) {
	if !d.list() {
		return false
	}
	list := []T{}
	outer := d.enter(name)
	for d.item() {
		var v T
		mark := len(d.path)
		d.path = append(strconv.AppendInt(d.path, int64(len(list)+1), 10), ".member"...)
		if d.object() {
			d.path = append(d.path, '.')
			P(&v).decode(d)
		} else if d.err == nil {
			d.faults.add("null", string(d.path), notNull)
		}
		list = append(list, v)
		d.leave(mark)
	}
	d.leave(outer)
	*dst = list
	return true
}

// stringMap reads a map of strings. Its keys and values are never shown: encryption contexts may be private.
func (d *decoder) stringMap(name string, dst *map[string]string) (present bool) {
	if !d.object() {
		return false
	}
	m, bad := map[string]string{}, false
	for d.member() {
		key := string(d.name)
		if !d.value('"', "a String") {
			bad = true
			continue
		}
		m[key] = string(d.text())
	}
	*dst = m
	if bad {
		d.fault(name, "", "Map value must satisfy constraint: ["+notNull+"]")
	}
	return true
}
