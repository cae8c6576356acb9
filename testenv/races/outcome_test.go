package races

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing/synctest"

	"cmkd/daemon/store"
	"cmkd/testenv/memory"
)

// outcome is what a run has led to: the answers, every row, what is in the token,
// the records, and whether ciphertexts decrypt. Names that were chosen at random
// during the run are all called "new", so that outcomes can be compared.
type outcome struct {
	answers [2]string
	state   []string // sorted
	records []string // sorted
}

func (o *outcome) text() string {
	return strings.Join(slices.Concat(o.answers[:], []string{"--"}, o.state, []string{"--"}, o.records), "\n")
}

// turned is the outcome with its answers in the other order.
func (o *outcome) turned() *outcome {
	t := *o
	t.answers[0], t.answers[1] = o.answers[1], o.answers[0]
	return &t
}

// random finds names that are chosen at random: of keys, grants, stores, objects and
// materials, and what is in base64.
var random = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32}|cks-[0-9a-f]{17}|\b[0-9a-f]{64}\b|[A-Za-z0-9+/]{22,}={1,2}|[A-Za-z0-9+/]{64,}`)

func (w *world) masked(s string) string {
	return random.ReplaceAllStringFunc(s, func(name string) string {
		if w.known[name] {
			return name
		}
		return "new"
	})
}

// answer is what an operation answers, as it is compared.
func (w *world) answer(op *op, out map[string]any, code string) string {
	if code != "" {
		return op.name + ": " + code
	}
	text, err := json.Marshal(out)
	if err != nil {
		w.t.Fatal(err)
	}
	return op.name + ": " + w.masked(string(text))
}

// outcome looks at what a run has led to.
func (w *world) outcome(answers [2]string) *outcome {
	synctest.Wait() // what goes on in the background is part of it
	o := &outcome{answers: answers}
	for _, r := range w.records {
		o.records = append(o.records, w.masked(r))
	}
	slices.Sort(o.records)
	view := w.db.View()
	all := rowsOf(view)
	o.state = append(all.lines(w.masked), w.tokenLines(&all)...)
	for i, blob := range w.blobs {
		_, code := w.call("Decrypt", "", map[string]any{"CiphertextBlob": blob})
		o.state = append(o.state, fmt.Sprintf("ciphertext %d of %d: %q", min(i, len(w.ready)), len(w.blobs), code))
	}
	slices.Sort(o.state)
	return o
}

// tokenLines are the objects in the token, each with the row that it belongs to.
func (w *world) tokenLines(all *rows) []string {
	var lines []string
	for id, o := range w.token.Objects() {
		of := "nobody"
		if v := all.versions[string(id[:])]; v != nil {
			of = fmt.Sprintf("version %d, %s, %s", v.Number, v.State, v.ImportState)
		} else if all.intents[string(id[:])] != nil {
			of = "an intent"
		} else if all.system[string(id[:])] != nil {
			of = "the daemon"
		}
		for _, p := range all.imports {
			if string(p.CKAID) == string(id[:]) {
				of = "an import"
			}
		}
		lines = append(lines, w.masked(fmt.Sprintf("object %s %s of %s: %s", o.Label, o.Key.Usage, of, secretName(&o))))
	}
	for id, v := range all.versions {
		if _, ok := w.token.Objects()[[16]byte([]byte(id))]; !ok && v.ImportState != "PENDING_IMPORT" {
			lines = append(lines, w.masked(fmt.Sprintf("no object for version %d of %s", v.Number, v.KeyID)))
		}
	}
	return lines
}

// secretName tells imported materials apart.
func secretName(o *memory.Object) string {
	for _, name := range []string{"X", "Y", "Z", "O"} {
		if string(o.Secret) == string(material(name)) {
			return name
		}
	}
	return "made"
}

// lines are the rows as text.
func (r *rows) lines(masked func(string) string) []string {
	var lines []string
	add := func(kind string, row any) {
		text, _ := json.Marshal(row) // a row is written as JSON
		lines = append(lines, kind+" "+masked(string(text)))
	}
	for _, row := range r.keys {
		copied := *row
		copied.Tags = slices.Clone(row.Tags)
		slices.SortFunc(copied.Tags, func(a, b store.Tag) int { return strings.Compare(a.Key, b.Key) })
		add("key", copied)
	}
	for _, v := range r.versions {
		row := *v
		row.Encryptions = min(row.Encryptions, 1) // a block of them is lost with each object
		add("version", row)
	}
	for _, row := range r.aliases {
		add("alias", row)
	}
	for _, row := range r.grants {
		add("grant", row)
	}
	for _, row := range r.intents {
		add("intent", row)
	}
	for _, row := range r.imports {
		add("import", row)
	}
	for _, row := range r.stores {
		add("store", row)
	}
	return lines
}

func lines(text string) map[string]int {
	counts := map[string]int{}
	for l := range strings.SplitSeq(text, "\n") {
		counts[l]++
	}
	return counts
}
