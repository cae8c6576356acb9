package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	p11 "github.com/miekg/pkcs11"

	"cmkd/backends"
	"cmkd/backends/loginrecord"
	"cmkd/backends/pkcs11/internal/cryptoki"
	"cmkd/backends/pkcs11/internal/der"
	"cmkd/backends/pkcs11/internal/token"
)

// Some tokens make pairs that last and no session objects (tpm2-pkcs11: CKA_TOKEN must be
// true). They are probed with token objects, which are destroyed at once. Those objects have
// CKA_IDs that no key has, by which the next probe destroys what a kill has left. There are
// few of them, since such tokens have little room (spent.go in package token).

// factSessionPairs is the fact that the token makes no pairs as session objects; it is left
// out for one that does.
const factSessionPairs = "session-key-pairs"

// probeLabel is as long as the longest label of a key, and none of a key.
var probeLabel = "cmkd-probe: destroyed by the next start " + strings.Repeat("-", 24)

// probeIDs are the CKA_IDs of what is probed with: not of 16 bytes, as keys' are.
var probeIDs = [][]byte{[]byte("cmkd-probe-pair"), []byte("cmkd-probe-secret-key"), []byte("cmkd-probe-public-key")}

// probeLasting probes with token objects, if the token lists mechanisms for pairs and has made
// none for the probe, of whatever kind.
func probeLasting(ctx context.Context, t *token.Token, p *PairProfile) error {
	var listed []*der.Kind
	for _, s := range der.AsymmetricSpecs {
		k := der.KindOf(s.Spec)
		if p.refused[s.Spec] == nil && k.Form != der.MLKEMKey { // those are probed apart
			return nil
		}
		if k.Form != der.MLKEMKey && generates(t, k.Mechanism) {
			listed = append(listed, k)
		}
	}
	if listed == nil {
		return nil
	}
	lock, err := loginrecord.LockProbe(ctx, t.Config.LoginRecord)
	if err != nil {
		return err
	}
	defer lock.Close()
	p.Facts[factSessionPairs] = "no: probed with token objects"
	// tpm2-pkcs11 makes PKCS #1 v1.5 signatures of the bare primitive, and cannot destroy a key
	// that was not allowed to make one before the process ends.
	p.lasting, t.Profile.RawSigning = true, true
	l := &lastingProber{pairProber: &pairProber{PairProfile: p}, token: t, fitted: map[uint]bool{}, safe: map[der.Form]bool{}}
	// Curves first: of RSA, each pair takes the token long.
	slices.SortStableFunc(listed, func(a, b *der.Kind) int { return rsaLast(a) - rsaLast(b) })
	var steps []func() error
	if err := l.run(ctx, l.sweep); err != nil || l.swept {
		p.again = true
		return err
	}
	for _, k := range listed {
		steps = append(steps, func() error { return l.probe(ctx, k) })
	}
	for _, step := range steps {
		if err := l.run(ctx, step); err != nil {
			return fmt.Errorf("probing the token with token objects: %w", err)
		}
	}
	for name, a := range der.Signings {
		if slices.ContainsFunc(listed, func(k *der.Kind) bool { return slices.Contains(a.Specs, k.Spec) }) {
			p.Facts["sign-"+string(name)] = p.signFact(name, a)
		}
	}
	return nil
}

func rsaLast(k *der.Kind) int {
	if k.Form == der.RSAKey {
		return 1
	}
	return 0
}

// generates reports whether the token lists a mechanism for key pairs.
func generates(t *token.Token, mechanism uint) bool {
	info, err := t.P11.GetMechanismInfo(t.Slot, []*p11.Mechanism{p11.NewMechanism(mechanism, nil)})
	return err == nil && info.Flags&p11.CKF_GENERATE_KEY_PAIR != 0
}

// lastingProber probes with token objects, of one kind of pair after the other.
type lastingProber struct {
	*pairProber
	token *token.Token
	// stage is the first of stages that the token has taken, fitted are the types of key of
	// which it has.
	stage  int
	fitted map[uint]bool
	// safe are the forms of private key that were tried to get out.
	safe map[der.Form]bool
	// stuck: an object could not be destroyed. swept: there was something to sweep.
	stuck, swept bool
}

// run runs a step with a session, and then destroys what it has made. What cannot be
// destroyed afresh sweeps, and nothing is made until then.
func (l *lastingProber) run(ctx context.Context, step func() error) error {
	return l.token.WithSession(ctx, func(s *token.Session) error {
		s.Broken = true // as in probe
		l.prober = &prober{Profile: l.token.Profile, s: s, token: l.token}
		defer func() {
			for _, o := range l.made {
				rv := s.DestroyObject(s.Handle, o)
				l.stuck = l.stuck || rv != p11.CKR_OK
			}
		}()
		return step()
	})
}

// sweep destroys what an earlier probe has left that was killed, or could not destroy itself.
func (l *lastingProber) sweep() error {
	templates := [][]*p11.Attribute{knownPublic()}
	for _, id := range probeIDs {
		templates = append(templates, []*p11.Attribute{p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_ID, id)})
	}
	for _, t := range templates {
		handles, err := l.token.Search(l.s, t)
		if err != nil {
			return err
		}
		for _, h := range handles {
			l.made = append(l.made, cryptoki.Object(h))
		}
	}
	for _, o := range l.made {
		l.swept = true
		if err := l.s.Check("C_DestroyObject", l.s.DestroyObject(l.s.Handle, o)); err != nil && !token.StaleHandle(err) {
			return err
		}
	}
	l.made = nil
	return nil
}

// knownPublic finds public keys of the probe's that are meant to go with their session, and have no
// name: tpm2-pkcs11 keeps them.
func knownPublic() []*p11.Attribute {
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_RSA),
		p11.NewAttribute(p11.CKA_MODULUS, der.KnownRSA().N.Bytes()),
	}
}

// Pairs is probePairs. Where that takes token objects, the token is opened again before, if
// there was something to sweep, and afterwards; see there for what such tokens do else.
func Pairs(ctx context.Context, t *token.Token) (*token.Token, *PairProfile, error) {
	const tries = 3
	for range tries {
		signs, err := probePairs(ctx, t)
		if err != nil || !signs.lasting {
			return t, signs, err
		}
		if t, err = afresh(ctx, t); err != nil {
			return nil, nil, err
		}
		if !signs.again {
			return t, signs, nil
		}
	}
	return nil, nil, errors.Join(backends.Errorf(backends.Lost, "probing the token with token objects: another program, such as a second cmkd, probes it all the time"), t.Close())
}

// afresh closes the token, and opens it until there is nothing to sweep.
func afresh(ctx context.Context, t *token.Token) (*token.Token, error) {
	const tries = 3
	for range tries {
		if err := t.Close(); err != nil {
			return nil, err
		}
		fresh, err := token.Open(ctx, t.Config, func(context.Context, *token.Token) (*token.Profile, error) { return t.Profile, nil })
		if err != nil {
			return nil, err
		}
		swept, err := sweepProbe(ctx, fresh)
		if err != nil {
			return nil, errors.Join(err, fresh.Close())
		}
		if t = fresh; !swept {
			break
		}
	}
	return t, nil
}

// sweepProbe is sweep while nobody else probes. It reports whether there was anything.
func sweepProbe(ctx context.Context, t *token.Token) (swept bool, err error) {
	lock, err := loginrecord.LockProbe(ctx, t.Config.LoginRecord)
	if err != nil {
		return false, err
	}
	defer lock.Close()
	l := &lastingProber{token: t, pairProber: &pairProber{}}
	err = l.run(ctx, l.sweep)
	return l.swept, err
}

// probeToken finds out whether the token has pairs of a kind: whether they are made as they
// must be, sign, and stay.
func (l *lastingProber) probe(ctx context.Context, k *der.Kind) error {
	if l.stuck {
		l.refused[k.Spec] = token.Unsupported(k.Name + " without keys that cannot be destroyed")
		return nil
	}
	u, err := l.PairPurpose(token.Kind{Spec: k.Spec, Usage: backends.SignVerify})
	if err != nil {
		l.refused[k.Spec] = err
		return nil //nolint:nilerr // the error is why there is no such pair
	}
	why, err := l.tryKind(ctx, u)
	if err != nil {
		return err
	}
	if why != nil {
		l.refused[k.Spec] = why
		return nil //nolint:nilerr // as above
	}
	delete(l.refused, k.Spec)
	l.token.Profile.Lasting = true
	return nil
}

// tryKind returns why there are no pairs of a purpose, nil if there are.
func (l *lastingProber) tryKind(ctx context.Context, u *token.Purpose) (why, err error) {
	k := u.Pair
	public, private, rv, err := l.make(u)
	for run := 1; err == nil && vague(rv); run++ { // a token that several processes probe may be short of something for a moment
		again, expired := pause(ctx, run)
		if expired != nil {
			return nil, expired
		}
		if !again {
			break
		}
		public, private, rv, err = l.make(u)
	}
	if err != nil || rv != p11.CKR_OK {
		if token.Failed("", rv).Code == backends.Unsupported {
			return &backends.Error{Code: backends.Unsupported, Message: k.Name, RV: rv}, err
		}
		return token.Unsupported(fmt.Sprintf("pairs of %s, which it lists (C_GenerateKeyPair: %s)", k.Name, token.RVText(rv))), err
	}
	if err := l.tryReads(private, "a private key that is sensitive", token.SecretAttributes(*u)); err != nil {
		return nil, err // reading back would take it for a wrong attribute
	}
	if why, err = l.asAsked(u, private); why != nil || err != nil {
		return why, err
	}
	why, err = l.signs(u, public, private)
	if why != nil || err != nil || l.safe[k.Form] {
		return why, err
	}
	l.safe[k.Form] = true
	return nil, l.stays(u, public, private)
}

// stages are the attributes that are left out of the templates of a purpose, more from one
// to the next. tpm2-pkcs11 takes CKA_DECRYPT and CKA_ENCRYPT for its own business.
func stages(u *token.Purpose) [][]uint {
	uses := []uint{p11.CKA_DECRYPT, p11.CKA_ENCRYPT}
	var all []uint
	for _, class := range []uint{p11.CKO_PRIVATE_KEY, p11.CKO_PUBLIC_KEY} {
		for _, a := range token.UsageOf(class, u.KeyType) {
			if a != p11.CKA_SIGN && a != p11.CKA_VERIFY {
				all = append(all, a)
			}
		}
	}
	return [][]uint{nil, uses, all, append(slices.Clone(all), token.Optional...)}
}

// make makes a pair with as much of its template as the token takes. CKR_GENERAL_ERROR is a
// template that it does not take, too. rv is why there is none.
func (l *lastingProber) make(u *token.Purpose) (public, private cryptoki.Object, rv uint, err error) {
	all := stages(u)
	for stage := l.stage; stage < len(all); stage++ {
		if !l.fitted[u.KeyType] {
			for _, a := range all[len(all)-1] {
				delete(l.Omitted, token.AttributeOf{KeyType: u.KeyType, Attribute: a})
			}
			for _, a := range all[stage] {
				l.Omitted[token.AttributeOf{KeyType: u.KeyType, Attribute: a}] = true
			}
		}
		label := l.Label(probeLabel)
		err = l.toFail(func() {
			public, private, rv = l.s.GenerateKeyPair(l.s.Handle, cryptoki.Mechanism{Type: u.Pair.Mechanism},
				l.Generation(u.Pair, l.PublicTemplate(u, true, probeIDs[0], label)), l.CMK(*u, true, probeIDs[0], label))
		}, l.answers)
		if rv == p11.CKR_OK {
			if err = cmp.Or(l.s.Is(public, p11.CKO_PUBLIC_KEY, probeIDs[0]), l.s.Is(private, p11.CKO_PRIVATE_KEY, probeIDs[0])); err != nil {
				return 0, 0, rv, err
			}
			l.made = append(l.made, public, private)
			l.stage, l.fitted[u.KeyType] = stage, true
			return public, private, rv, nil
		}
		if err != nil || !token.RefusedTemplate(rv) && !vague(rv) || l.fitted[u.KeyType] {
			break
		}
	}
	return 0, 0, rv, err
}

// answers has the token do something that never fails in one that is there.
func (l *lastingProber) answers() uint {
	return l.s.GenerateRandom(l.s.Handle, make([]byte, 8))
}

// asAsked returns why a private key is not as its template has it, nil if it is. CKA_DECRYPT may
// be true all the same.
func (l *lastingProber) asAsked(u *token.Purpose, private cryptoki.Object) (why, err error) {
	var q cryptoki.Query
	q.AskBool(p11.CKA_DECRYPT)
	q.Ask(p11.CKA_LABEL, 256)
	if err := l.s.Attributes(private, &q); err != nil {
		return nil, err
	}
	if label, _ := q.Value(p11.CKA_LABEL); string(label) != probeLabel {
		return token.Unsupported(token.NeedsLabel), nil
	}
	at := token.AttributeOf{KeyType: u.KeyType, Attribute: p11.CKA_DECRYPT}
	if decrypts, _ := q.Bool(p11.CKA_DECRYPT); decrypts && l.Omitted[at] {
		l.Forced[at] = true
		l.fact("private-keys-decrypt", "yes, whatever the template says: never used")
	}
	err = l.ReadBack(l.s, private, *u, false)
	if backends.CodeOf(err) == backends.KeyUnsafe {
		why, err = token.Unsupported(fmt.Sprintf("%s as its template has it (%s)", u.Pair.Name, messageOf(err))), nil
	}
	return why, err
}

// signs signs by every algorithm that the pair has. why is nil if one gives the right
// signature.
func (l *lastingProber) signs(u *token.Purpose, public, private cryptoki.Object) (why, err error) {
	k := u.Pair
	key, err := l.parsedPublic(k, public)
	if err != nil {
		why, err = token.Unsupported(fmt.Sprintf("%s with a public key that can be read (%s)", k.Name, messageOf(err))), nil
		return why, err
	}
	why = token.Unsupported("a signature by a key of " + k.Name + ", which it makes")
	for name, a := range der.Signings {
		if !slices.Contains(a.Specs, k.Spec) {
			continue
		}
		var right bool
		var wrong error
		if err := l.toFail(func() { right, wrong = l.tryOnce(a, private, k, key) }, l.answers); err != nil {
			return nil, err
		}
		l.Can[SpecAlgorithm{k.Spec, name}] = right
		switch {
		case right:
			why = nil
		case why != nil && wrong != nil:
			why = token.Unsupported(fmt.Sprintf("a signature by a key of %s, which it makes (C_Sign: %s)", k.Name, token.RVText(token.RVOf(wrong))))
		}
	}
	return why, nil
}

// messageOf is the text of an error without its code, for reasons.
func messageOf(err error) string {
	if e, ok := errors.AsType[*backends.Error](err); ok {
		return e.Message
	}
	return err.Error()
}
