package cli

import (
	"time"
)

// ParseTime reads a day, which begins at midnight UTC, or a time.
func ParseTime(flag, text string) (time.Time, error) {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	return time.Time{}, Usagef("%s %q is not a date like 2006-01-02 or 2006-01-02T15:04:05Z", flag, text)
}
