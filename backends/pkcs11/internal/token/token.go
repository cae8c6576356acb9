// Package token is an open PKCS#11 token: the module, the login, the sessions, the index of
// key objects, what the token can do ([Profile]), and the templates by which it is asked to
// make keys. It makes and uses no keys itself.
package token

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ThalesGroup/crypto11"
	p11 "github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"cmkd/backends"
	"cmkd/backends/loginrecord"
	"cmkd/backends/pkcs11/internal/cryptoki"
)

// Config says which token to open.
type Config struct {
	// Module is the path of the PKCS#11 library.
	Module string
	// TokenLabel and TokenSerial choose the token; at least one is set, and
	// both must fit if both are. Slot numbers change and choose nothing.
	TokenLabel  string
	TokenSerial string
	// PINFile holds the user PIN (CloudHSM: user:password). Line ends after it
	// are not part of the PIN; other control characters are refused.
	PINFile string
	// MaxSessions bounds the sessions of this process; 0 means 16. Two of
	// them keep the login and cached objects alive.
	MaxSessions int
	// LoginRecord is the path of a file in which the processes of a token
	// remember the PIN that it refused, and the logins that it has not answered; it
	// is created. Another PIN is tried
	// although the token says that a wrong one was given
	// (CKF_USER_PIN_COUNT_LOW), unless it were the last try. "": nothing is
	// remembered.
	LoginRecord string
	// Aside are keys that another process serves. The opening does not read their
	// attributes, which takes SoftHSM2 longer than finding them. ListKeys does, and finds
	// what has the CKA_ID of a key of this process.
	Aside Keys
}

// Keys are some of the keys in a token.
type Keys int

// Whole kinds of key.
const (
	NoKeys     Keys = iota
	AESKeys         // CKO_SECRET_KEY with CKK_AES
	SecretKeys      // CKO_SECRET_KEY
)

// template finds them, without debris (which is not in the token as it says).
func (k Keys) template() []*p11.Attribute {
	template := []*p11.Attribute{p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY)}
	if k == AESKeys {
		template = append(template, p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_AES))
	}
	return template
}

const (
	defaultSessions = 16
	// keptSessions are crypto11's own and the anchor.
	keptSessions = 2
	// maxLoads is how often a module is initialised that shows no token that fits,
	// and loadPause the time between.
	maxLoads  = 3
	loadPause = 20 * time.Millisecond
	// closeTimeout bounds the wait for calls in flight when a token is closed.
	closeTimeout = 5 * time.Second
)

// Token is an open token. Its methods may be called concurrently.
type Token struct {
	Config Config
	owner  io.Closer // of C_Initialize and C_Finalize; nil: closed
	P11    *p11.Ctx
	Module *cryptoki.Module
	Slot   uint
	info   p11.TokenInfo
	limits limits
	// anchor is a session that is open as long as the token: the login lasts
	// as long as a session does, and so do the session objects kept on it.
	Anchor   cryptoki.Session
	Sessions *pool
	Profile  *Profile
	Index    index
	loaded   loaded
	keys     int // of cmkd's keys when the token was opened

	// change serialises creating, finding and destroying token objects:
	// SoftHSM2 fails some of them when they run at the same time. It is taken
	// before a session, never while one is held.
	Change mutex
	debris []cryptoki.Object // guarded by change
	// pairs serialises generating key pairs, which takes seconds.
	Pairs mutex
}

// Open loads the module, finds the token, logs in with a single try, lists its keys and has
// probe say what the token can do.
func Open(ctx context.Context, cfg Config, probe func(context.Context, *Token) (*Profile, error)) (*Token, error) {
	if cfg.TokenLabel == "" && cfg.TokenSerial == "" {
		return nil, backends.Errorf(backends.Internal, "neither a token label nor a serial number is configured")
	}
	if err := Expired(ctx); err != nil {
		return nil, err
	}
	t, err := find(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := t.start(ctx, cfg, probe); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// Find loads the module and finds the token, while no process of this token logs
// in.
func find(ctx context.Context, cfg Config) (*Token, error) {
	record, err := loginrecord.Open(ctx, cfg.LoginRecord, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer record.Close()
	t, err := load(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := t.chooseSlot(cfg); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// load loads and initialises the module. crypto11 must be the first to do so
// and picks the first token that fits; it is not told the PIN, so that the
// choice and the PIN counters are looked at before the PIN is tried.
func load(ctx context.Context, cfg Config) (*Token, error) {
	owner, err := initialise(cfg)
	for try := 1; err != nil; try++ {
		if try < maxLoads && ctx.Err() == nil {
			// Programs that know nothing of the record log in, too.
			select {
			case <-time.After(loadPause):
			case <-ctx.Done():
			}
			owner, err = initialise(cfg)
			continue
		}
		if missing := noToken(cfg); missing != nil {
			return nil, missing
		}
		return nil, unopened(cfg, err)
	}
	t := &Token{Config: cfg, owner: owner, P11: p11.New(cfg.Module), Change: make(mutex, 1), Pairs: make(mutex, 1), Index: index{objects: map[Ref]*Object{}}}
	if t.P11 == nil {
		return nil, errors.Join(backends.Errorf(backends.Lost, "loading module %s a second time", cfg.Module), t.Close())
	}
	if t.Module, err = cryptoki.Open(cfg.Module, t.P11); err != nil {
		return nil, errors.Join(backends.Errorf(backends.Lost, "%v", err), t.Close())
	}
	if t.Module.Several {
		// What crypto11 has initialised is another one. This one is used alone.
		if err := errors.Join(owner.Close(), t.P11.Initialize()); err != nil {
			t.owner = nothing{}
			return nil, errors.Join(failure("opening module "+cfg.Module, err), t.Close())
		}
		t.owner = finaliser{t.P11}
	}
	return t, nil
}

// unopened says what to look at when C_Initialize, or what follows it, fails.
func unopened(cfg Config, err error) error {
	hint := "do the files and folders of its configuration exist, may cmkd read them, and does its sandbox let it reach them? " +
		"sandbox = { readable, writable, network } of the [[token]] lets it reach more, and off = true everything"
	if rv, ok := errors.AsType[p11.Error](err); ok && rv == p11.CKR_ARGUMENTS_BAD {
		hint = "it may want parameters in pReserved of C_Initialize, as NSS's softokn does, and cmkd gives none: " +
			"of NSS, no key would be safe, since it copies keys that must not be extracted to ones that can be"
	}
	if _, ok := errors.AsType[p11.Error](err); !ok {
		return backends.Errorf(backends.Lost, "module %s cannot be loaded: is it a PKCS#11 library, for this machine, with all that it needs? (%v)", cfg.Module, cmp.Or(cryptoki.LoadError(cfg.Module), err))
	}
	return failure(fmt.Sprintf("C_Initialize of module %s (%s)", cfg.Module, hint), err)
}

// nothing is an owner without anything to finalise.
type nothing struct{}

// Close implements [io.Closer].
func (nothing) Close() error { return nil }

// initialise calls C_Initialize, with crypto11 but for a token without the
// read-write session that it opens.
func initialise(cfg Config) (io.Closer, error) {
	choice := &crypto11.Config{Path: cfg.Module, MaxSessions: 2, LoginNotSupported: true}
	if cfg.TokenSerial != "" {
		choice.TokenSerial = cfg.TokenSerial
	} else {
		choice.TokenLabel = cfg.TokenLabel
	}
	c, err := crypto11.Configure(choice)
	if rv, ok := errors.AsType[p11.Error](err); !ok || rv != p11.CKR_TOKEN_WRITE_PROTECTED {
		return c, err
	}
	ctx := p11.New(cfg.Module)
	if ctx == nil {
		return nil, err
	}
	if err := ctx.Initialize(); err != nil {
		ctx.Destroy()
		return nil, err
	}
	return finaliser{ctx}, nil
}

// finaliser ends what Initialize began.
type finaliser struct{ *p11.Ctx }

// Close implements [io.Closer].
func (f finaliser) Close() error {
	defer f.Destroy()
	return f.Finalize()
}

func (t *Token) start(ctx context.Context, cfg Config, probe func(context.Context, *Token) (*Profile, error)) error {
	size, err := t.sessionLimit(cfg.MaxSessions)
	if err != nil {
		return err
	}
	if t.Anchor, _, err = t.openSession(); err != nil {
		return err
	}
	if t.info.Flags&p11.CKF_WRITE_PROTECTED != 0 { // of some, read-write sessions open all the same
		t.limits.begin(writeProtected, protected)
	}
	t.Sessions = newPool(t, size)
	if err := t.login(ctx, cfg); err != nil {
		return err
	}
	// First, for as long as this process has made no session object.
	l, err := t.Refresh(ctx, true)
	if err != nil {
		return err
	}
	t.keys = len(l.Keys)
	t.Profile, err = probe(ctx, t)
	return err
}

// sessionLimit is the size of the pool: what the configuration and the token
// allow, less the sessions kept. CK_EFFECTIVELY_INFINITE is 0.
func (t *Token) sessionLimit(configured int) (int, error) {
	size := configured
	if size == 0 {
		size = defaultSessions
	}
	set := "max_sessions is"
	for _, limit := range []uint{t.info.MaxRwSessionCount, t.info.MaxSessionCount} {
		if limit != p11.CK_EFFECTIVELY_INFINITE && limit != cryptoki.Unavailable && limit < uint(size) {
			set, size = "the token allows", int(limit)
		}
	}
	if size <= keptSessions {
		return 0, backends.Errorf(backends.Internal, "%s %d, and each plugin process needs %d sessions at least", set, size, keptSessions+1)
	}
	return size - keptSessions, nil
}

// Close waits for the calls in flight, closes the sessions and finalises the
// module. Closing a closed token does nothing.
func (t *Token) Close() error {
	if t.owner == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if t.Sessions != nil && !t.Sessions.close(ctx) {
		// C_Finalize under a running call is undefined; the process ends soon.
		return backends.Errorf(backends.Timeout, "closing the token: calls are still running in the module")
	}
	if t.Anchor != 0 {
		_ = t.P11.CloseSession(p11.SessionHandle(t.Anchor)) // C_Finalize closes it at the latest
	}
	if t.Module != nil {
		t.Module.Close()
	}
	err := t.owner.Close()
	t.owner = nil
	if t.P11 != nil {
		t.P11.Destroy()
	}
	if err != nil {
		return fmt.Errorf("closing the module: %w", err)
	}
	return nil
}

// mutex is a mutual exclusion that can be waited for until a context ends.
type mutex chan struct{}

// Lock locks m, unless ctx ends first.
func (m mutex) Lock(ctx context.Context) error {
	select {
	case m <- struct{}{}:
		return nil
	default:
	}
	select {
	case m <- struct{}{}:
		return nil
	case <-ctx.Done():
		return Expired(ctx)
	}
}

// Unlock unlocks m.
func (m mutex) Unlock() { <-m }

// Printable is a text of a module's, which need not be UTF-8, and may be anything.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, text)
}

// TokenInfo describes the token.
func (t *Token) TokenInfo() backends.TokenInfo {
	return backends.TokenInfo{
		Label:        Printable(t.info.Label),
		Serial:       Printable(t.info.SerialNumber),
		Manufacturer: Printable(t.info.ManufacturerID),
		Model:        Printable(t.info.Model),
		Firmware:     fmt.Sprintf("%d.%d", t.info.FirmwareVersion.Major, t.info.FirmwareVersion.Minor),
		OpenSessions: t.Sessions.count() + keptSessions,
		Keys:         t.keys,
		Limits:       t.limits.now(),
		ReadOnly:     t.limits.has(writeProtected),
	}
}
