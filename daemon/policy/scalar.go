package policy

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// decimal is a number of any size, kept as digits so that comparing is exact.
type decimal struct {
	negative bool
	whole    string // without leading zeros
	fraction string // without trailing zeros
}

// parseDecimal reads digits with an optional sign and fraction.
func parseDecimal(s string) (decimal, bool) {
	var d decimal
	digits, negative := strings.CutPrefix(s, "-")
	if !negative {
		digits = strings.TrimPrefix(digits, "+")
	}
	whole, fraction, hasFraction := strings.Cut(digits, ".")
	if !isDigits(whole) || hasFraction && !isDigits(fraction) {
		return d, false
	}
	d.whole = strings.TrimLeft(whole, "0")
	d.fraction = strings.TrimRight(fraction, "0")
	d.negative = negative && (d.whole != "" || d.fraction != "")
	return d, true
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// compare returns -1, 0 or +1.
func (d decimal) compare(other decimal) int {
	if d.negative != other.negative {
		if d.negative {
			return -1
		}
		return 1
	}
	cmp := len(d.whole) - len(other.whole)
	if cmp == 0 {
		cmp = strings.Compare(d.whole, other.whole)
	}
	if cmp == 0 {
		cmp = strings.Compare(d.fraction, other.fraction)
	}
	if d.negative {
		return -cmp
	}
	return cmp
}

// dateForm is the W3C's profile of ISO 8601, and dateLayouts are the same for
// time.Parse, which on its own also takes hours of one digit and fractions after
// a comma. https://www.w3.org/TR/NOTE-datetime
var (
	dateForm = regexp.MustCompile(
		`^[0-9]{4}(?:-[0-9]{2}(?:-[0-9]{2}(?:T[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?:Z|[+-][0-9]{2}:[0-9]{2}))?)?)?$`)
	dateLayouts = []string{
		"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04Z07:00", "2006-01-02", "2006-01", "2006",
	}
)

// maxDate is the longest date in bytes, with more digits after the point than
// any clock has.
const maxDate = 64

// parseDate reads a date of those forms, or seconds of the Unix epoch. Four
// digits are a year.
func parseDate(s string) (time.Time, bool) {
	if len(s) > maxDate {
		return time.Time{}, false
	}
	if dateForm.MatchString(s) {
		for _, layout := range dateLayouts {
			if t, err := time.Parse(layout, s); err == nil {
				return t, true
			}
		}
		return time.Time{}, false
	}
	return parseEpoch(s)
}

// parseEpoch reads seconds of the Unix epoch, with nanoseconds at most.
func parseEpoch(s string) (time.Time, bool) {
	const maxDigits, fractionDigits = 12, 9 // far beyond the year 9999; of a nanosecond
	whole, fraction, hasFraction := strings.Cut(s, ".")
	if len(whole) > maxDigits || !isDigits(strings.TrimPrefix(whole, "-")) || hasFraction && !isDigits(fraction) {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return time.Time{}, false
	}
	fraction = (fraction + strings.Repeat("0", fractionDigits))[:fractionDigits]
	nanoseconds, err := strconv.ParseInt(fraction, 10, 64)
	if strings.HasPrefix(whole, "-") {
		nanoseconds = -nanoseconds
	}
	return time.Unix(seconds, nanoseconds), err == nil
}

func parseBool(s string) (value, ok bool) {
	switch {
	case strings.EqualFold(s, "true"):
		return true, true
	case strings.EqualFold(s, "false"):
		return false, true
	default:
		return false, false
	}
}

// parseNetwork reads a CIDR block or a single address, whose prefix is its
// whole length. IPv4 addresses in IPv6 form are IPv4 addresses.
func parseNetwork(s string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, false
	}
	const mapped = 96 // bits of ::ffff:0:0
	if prefix.Addr().Is4In6() && prefix.Bits() >= mapped {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mapped)
	}
	return prefix.Masked(), true
}
