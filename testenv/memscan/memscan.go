// Package memscan searches the memory of other processes for secrets. It needs
// the rights to read it: root's (CAP_SYS_PTRACE), since cmkd's processes are not
// dumpable.
package memscan

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
)

// A form is how a secret stands in memory.
type form string

// The forms that are searched for. Raw is the bytes as they are, Reversed those of
// a number in the order in which arithmetic keeps it on a little-endian machine,
// and Base64 the standard alphabet, whatever stands before the secret.
const (
	Raw      form = "raw"
	Reversed form = "reversed"
	Base64   form = "base64"
	Hex      form = "hexadecimal"
)

const (
	// window is how many bytes in a row are found, if they begin at a multiple
	// of stride: so of each remnant of window+stride-1 bytes at least a part.
	window = 16
	stride = 8
)

// Secrets are what to search for. The zero value is empty.
type Secrets struct {
	windows map[uint64][]*piece // by their first eight bytes
	filter  []uint64            // a bit for each hash of such a number
	count   int
}

// piece is a window of a secret in one of its forms.
type piece struct {
	secret string
	form   form
	// rest is what follows the first eight bytes, n bytes of it: an array, since short
	// strings that are made one after the other lie side by side, as in the secret.
	rest [window - 8]byte
	n    int
}

// MinLength is the shortest secret that can be searched for, in bytes.
const MinLength = 2 * window

// Add adds a secret under a name, which is what a [Hit] says. It must be as good as
// random, or it is found where it never was.
func (s *Secrets) Add(name string, secret []byte) {
	if len(secret) < MinLength {
		panic(fmt.Sprintf("memscan: %s has %d bytes, at least %d can be told from chance", name, len(secret), MinLength))
	}
	s.count++
	reversed := slices.Clone(secret)
	slices.Reverse(reversed)
	s.add(name, Raw, secret)
	s.add(name, Reversed, reversed)
	clear(reversed) // a process that searches itself finds no copy of Add's
	text := hex.EncodeToString(secret)
	s.add(name, Hex, []byte(text))
	s.add(name, Hex, []byte(strings.ToUpper(text)))
	for before := range 3 {
		longer := append(make([]byte, before, before+len(secret)), secret...)
		text := base64.StdEncoding.EncodeToString(longer)
		clear(longer)
		// The first characters depend on what stands before the secret, too, and
		// the last group on what follows.
		s.add(name, Base64, []byte(text[(before*8+5)/6:len(text)-4]))
	}
}

func (s *Secrets) add(name string, f form, text []byte) {
	for ; len(text) >= window; text = text[stride:] {
		s.addWindow(name, f, text[:window])
	}
}

func (s *Secrets) addWindow(name string, f form, text []byte) {
	if s.windows == nil {
		s.windows, s.filter = map[uint64][]*piece{}, make([]uint64, 1<<filterBits/64)
	}
	first := binary.LittleEndian.Uint64(text)
	p := &piece{secret: name, form: f}
	p.n = copy(p.rest[:], text[8:])
	s.windows[first] = append(s.windows[first], p)
	h := hash(first)
	s.filter[h/64] |= 1 << (h % 64)
}

// AddShort adds a secret of 8 to 16 bytes, such as a PIN. It is searched for as it is,
// and as a whole.
func (s *Secrets) AddShort(name string, secret []byte) {
	s.count++
	s.addWindow(name, Raw, secret[:min(len(secret), window)])
}

// Len is how many secrets there are.
func (s *Secrets) Len() int { return s.count }

const filterBits = 20

func hash(v uint64) uint64 { return v * 0x9E3779B97F4A7C15 >> (64 - filterBits) }

// Hit is a part of a secret in a process's memory.
type Hit struct {
	Secret  string
	Form    form
	Mapping string // its name in /proc/PID/maps, or its flags
	Address uint64
}

func (h Hit) String() string {
	return fmt.Sprintf("%s, %s, at %#x in %s", h.Secret, h.Form, h.Address, h.Mapping)
}

// Search searches all that a process has mapped and may read, but for memory of
// devices. It fails if the memory cannot be read, so that no hit means no secret.
func (s *Secrets) Search(pid int) ([]Hit, error) {
	all, err := mappings(pid)
	if err != nil {
		return nil, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, fmt.Errorf("reading the memory of process %d: %w", pid, err)
	}
	defer func() { _ = mem.Close() }()
	var hits []Hit
	read := 0
	buf := make([]byte, 1<<20)
	for _, m := range all {
		for at := m.from; at < m.to; {
			n, err := mem.ReadAt(buf[:min(uint64(len(buf)), m.to-at)], int64(at))
			read += n
			hits = s.scan(hits, m, at, buf[:n])
			switch {
			case errors.Is(err, syscall.EIO) || errors.Is(err, io.EOF):
				at += uint64(n) &^ (page - 1)
				at += page // unmapped since, or beyond the end of its file
				continue
			case err != nil:
				return nil, fmt.Errorf("reading the memory of process %d: %w", pid, err)
			}
			if at += uint64(n); at < m.to {
				at -= window - 1 // for what lies across
			}
		}
	}
	if read < 1<<20 {
		return nil, fmt.Errorf("only %d bytes of process %d could be read", read, pid)
	}
	return hits, nil
}

const page = 4096

// Find searches bytes that are at hand, as Search does memory.
func (s *Secrets) Find(b []byte) []Hit { return s.scan(nil, mapping{}, 0, b) }

// scan adds the hits in b, which lies at an address.
func (s *Secrets) scan(hits []Hit, m mapping, at uint64, b []byte) []Hit {
	for i := 0; len(s.filter) > 0 && i+8 <= len(b); i++ {
		first := binary.LittleEndian.Uint64(b[i:])
		if h := hash(first); s.filter[h/64]&(1<<(h%64)) == 0 {
			continue
		}
		for _, p := range s.windows[first] {
			if bytes.HasPrefix(b[i+8:], p.rest[:p.n]) {
				hits = append(hits, Hit{p.secret, p.form, m.name, at + uint64(i)})
			}
		}
	}
	return hits
}

// mapping is a line of /proc/PID/maps.
type mapping struct {
	from, to uint64
	name     string
}

func mappings(pid int) ([]mapping, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, fmt.Errorf("listing the memory of process %d: %w", pid, err)
	}
	defer func() { _ = f.Close() }()
	var all []mapping
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var m mapping
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &m.from, &m.to, &mode); err != nil {
			return nil, fmt.Errorf("%q: %w", lines.Text(), err)
		}
		m.name = mode
		if fields := strings.Fields(lines.Text()); len(fields) > 5 {
			m.name = fields[5]
		}
		if mode[0] == 'r' && !strings.HasPrefix(m.name, "[v") { // [vvar], [vsyscall]
			all = append(all, m)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("listing the memory of process %d: %w", pid, err)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("process %d: %w", pid, fs.ErrNotExist)
	}
	return all, nil
}
