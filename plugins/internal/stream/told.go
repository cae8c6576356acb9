package stream

import (
	"unicode/utf8"
)

// Told shortens what a plugin says of itself, for logs and errors.
func Told(text string) string { return Shorten(text, 1024) }

// Shorten cuts text to about longest bytes, between two characters.
func Shorten(text string, longest int) string {
	if len(text) <= longest {
		return text
	}
	at := longest
	for at > longest-utf8.UTFMax && !utf8.RuneStart(text[at]) {
		at--
	}
	return text[:at] + "…"
}
