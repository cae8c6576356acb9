package daemon

// complaint is the error that was logged last, "" if none was since all went well. What
// fails again and again for the same reason is logged once.
type complaint string

// fresh notes an error, nil if all went well, and reports whether to log it.
func (c *complaint) fresh(err error) bool {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == string(*c) {
		return false
	}
	*c = complaint(text)
	return text != ""
}
