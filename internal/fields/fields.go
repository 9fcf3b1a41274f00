// Package fields reads single fields from the JSON of a signed body, without decoding the
// rest: the conditions of `where`, and values for keys and placeholders.
package fields

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/romshark/jscan/v2"
)

// MaxDepth is the deepest nesting of a body that is accepted. The deepest known notification
// has 9 levels.
const MaxDepth = 1000

var (
	// ErrRepeated is the error for a body in which a key of a path that is read stands twice in
	// one object, in any capitalisation. Parsers differ on which one they use, and a backend
	// must not read another value than the one that decided.
	ErrRepeated = errors.New("a field of a condition is repeated")
	// ErrInvalid is the error for a body that is not valid JSON, or nested too deeply.
	ErrInvalid = errors.New("body is not valid JSON")
)

// Plan has the fields to read, so that one walk over a body finds all of them. A nil Plan has
// none. It must not be changed once it is used.
type Plan struct {
	nodes     []node // of the tree of paths; the first is the root
	depth     int    // of the tree
	questions []question
	numbers   map[string]int // of conditions
	walks     sync.Pool
}

// node is a prefix of paths. Its depth in the tree is the depth in the body of the values that
// it stands for.
type node struct {
	name      []byte
	index     int   // that the name means in an array; -1 if it is no index
	children  []int // with a name
	any       int   // the child for *; 0 if there is none
	firsts    firsts
	questions []int // about its values
}

// firsts has a bit for each first byte that a key for one of some names can have. A bit stands
// for several bytes, a letter in both cases among them. Most keys are passed over by it.
type firsts uint32

// anyFirst has all bits; foldedFirsts those of keys that begin with an escape, or with one of
// the two letters outside of ASCII that are letters of ASCII in another case, ſ and K (kelvin).
const (
	anyFirst     = ^firsts(0)
	foldedFirsts = firsts(1<<('\\'&31) | 1<<(0xC5&31) | 1<<(0xE2&31))
)

func firstsOf(name string) firsts {
	if name == "*" || name[0] >= utf8.RuneSelf {
		return anyFirst
	}
	return foldedFirsts | 1<<(name[0]&31)
}

// question is what a walk finds out about a field.
type question struct {
	condition
	wanted bool // the text of the value
}

// Require adds a condition, unless it is there.
func (p *Plan) Require(text string) error {
	c, err := parseCondition(text)
	if _, known := p.numbers[text]; err == nil && !known {
		if p.numbers == nil {
			p.numbers = make(map[string]int)
		}
		p.numbers[text] = p.add(question{condition: c})
	}
	return err
}

// Want adds a field with a valid path, and returns its number for Values.Text.
func (p *Plan) Want(path string) int { return p.add(question{condition{path: path}, true}) }

func (p *Plan) add(q question) int {
	if len(p.nodes) == 0 {
		p.nodes = []node{{}}
	}
	at, depth := 0, 0
	for segment := range strings.SplitSeq(q.path, ".") {
		at = p.child(at, segment)
		depth++
	}
	p.depth = max(p.depth, depth)
	number := len(p.questions)
	p.nodes[at].questions = append(p.nodes[at].questions, number)
	p.questions = append(p.questions, q)
	return number
}

// child returns the child of a node for a segment of a path. It makes it if there is none.
func (p *Plan) child(parent int, segment string) int {
	for _, child := range p.nodes[parent].children {
		if string(p.nodes[child].name) == segment {
			return child
		}
	}
	if segment == "*" && p.nodes[parent].any != 0 {
		return p.nodes[parent].any
	}
	index, err := strconv.Atoi(segment)
	if err != nil || strconv.Itoa(index) != segment {
		index = -1
	}
	child := len(p.nodes)
	p.nodes[parent].firsts |= firstsOf(segment)
	p.nodes = append(p.nodes, node{name: []byte(segment), index: index})
	if segment == "*" {
		p.nodes[parent].any = child
	} else {
		p.nodes[parent].children = append(p.nodes[parent].children, child)
	}
	return child
}

// Values are what a walk has found.
type Values struct {
	plan  *Plan
	found []found
}

type found struct {
	is   bool // it is there and not null and, if there are values, one of them
	text string
}

// Holds reports whether a condition of the plan holds. Nothing holds of what was never read.
func (v Values) Holds(condition string) bool {
	if v.plan == nil {
		return false
	}
	number, known := v.plan.numbers[condition]
	return known && v.found[number].is != v.plan.questions[number].not
}

// Text returns the text of a field, of the first value if the path has a *: of a string its
// characters, of a number or a boolean its JSON. It is empty if there is no such value.
func (v Values) Text(number int) string {
	if number >= len(v.found) {
		return ""
	}
	return v.found[number].text
}

// Read walks over a body.
func (p *Plan) Read(body []byte) (Values, error) {
	walk := p.Start()
	if walk == nil {
		return Values{}, nil
	}
	defer walk.End()
	var err error
	syntax := jscan.Scan(body, func(i *jscan.Iterator[[]byte]) bool {
		level := i.Level()
		if level <= walk.Reach {
			err = walk.Visit(i)
		}
		return err != nil || level > MaxDepth
	})
	if err == nil && syntax.IsErr() {
		err = ErrInvalid
	}
	if err != nil {
		return Values{}, err
	}
	return walk.Values()
}

// Walk is a walk over one body.
type Walk struct {
	// Reach is the deepest level whose values must be visited now.
	Reach int

	plan   *Plan
	levels []level  // by depth: the containers around the current value that paths go through
	seen   []int    // for each node, the container in which a key for it was last found
	keys   []keyRef // of objects of which any key fits
	found  []found
}

// level is a container that a path goes through.
type level struct {
	container int   // its offset in the body, plus 1
	nodes     []int // those that it stands for
	firsts    firsts
}

// keyRef is a key of an object.
type keyRef struct {
	container int
	hash      uint64
}

var seed = maphash.MakeSeed()

// Start begins a walk; nil if there is nothing to read.
func (p *Plan) Start() *Walk {
	if p == nil || len(p.questions) == 0 {
		return nil
	}
	w, _ := p.walks.Get().(*Walk)
	if w == nil {
		w = &Walk{plan: p, levels: make([]level, p.depth+1), seen: make([]int, len(p.nodes))}
	}
	w.Reach, w.found = 0, make([]found, len(p.questions))
	return w
}

// End returns what the walk needed for another one.
func (w *Walk) End() {
	clear(w.seen)
	w.keys, w.found = w.keys[:0], nil
	if cap(w.keys) > 1<<12 {
		w.keys = nil
	}
	w.plan.walks.Put(w)
}

// Values returns what was found in a whole body.
func (w *Walk) Values() (Values, error) {
	slices.SortFunc(w.keys, func(a, b keyRef) int {
		return cmp.Or(cmp.Compare(a.container, b.container), cmp.Compare(a.hash, b.hash))
	})
	for i := 1; i < len(w.keys); i++ {
		if w.keys[i] == w.keys[i-1] {
			return Values{}, ErrRepeated
		}
	}
	return Values{w.plan, w.found}, nil
}

// Visit looks at the next value of the body. Values deeper than Reach may be left out.
func (w *Walk) Visit(i *jscan.Iterator[[]byte]) error {
	depth := i.Level() // of the containers around the value, those on a path are in w.levels
	current := &w.levels[depth]
	current.nodes = current.nodes[:0]
	if depth == 0 {
		current.nodes = append(current.nodes, 0)
	} else if err := w.match(i, &w.levels[depth-1], current); err != nil {
		return err
	}
	w.Reach = depth
	for _, at := range current.nodes {
		for _, number := range w.plan.nodes[at].questions {
			w.answer(number, i)
		}
	}
	if len(current.nodes) > 0 && depth < w.plan.depth && isContainer(i.ValueType()) {
		current.container, current.firsts = i.ValueIndex()+1, 0
		for _, at := range current.nodes {
			current.firsts |= w.plan.nodes[at].firsts
		}
		w.Reach = depth + 1
	}
	return nil
}

// match finds the nodes that a value stands for, among the children of those of its container.
func (w *Walk) match(i *jscan.Iterator[[]byte], parent, current *level) error {
	key := i.Key()
	var name []byte
	if key != nil {
		if parent.firsts>>(key[1]&31)&1 == 0 {
			return nil
		}
		name = Text(key)
	}
	noted := false
	for _, at := range parent.nodes {
		node := &w.plan.nodes[at]
		if node.any != 0 {
			current.nodes = append(current.nodes, node.any)
			if key != nil && !noted { // two nodes of one container can have a child for *
				noted = true
				w.keys = append(w.keys, keyRef{parent.container, maphash.Bytes(seed, name)})
			}
		}
		for _, child := range node.children {
			wanted := &w.plan.nodes[child]
			switch {
			case key == nil:
				if wanted.index == i.ArrayIndex() {
					current.nodes = append(current.nodes, child)
				}
			case bytes.EqualFold(wanted.name, name):
				if w.seen[child] == parent.container {
					return ErrRepeated
				}
				w.seen[child] = parent.container
				if bytes.Equal(wanted.name, name) {
					current.nodes = append(current.nodes, child)
				}
			}
		}
	}
	return nil
}

func isContainer(kind jscan.ValueType) bool {
	return kind == jscan.ValueTypeObject || kind == jscan.ValueTypeArray
}

// answer answers a question about a value.
func (w *Walk) answer(number int, i *jscan.Iterator[[]byte]) {
	f, q := &w.found[number], &w.plan.questions[number]
	kind := i.ValueType()
	if f.is || kind == jscan.ValueTypeNull {
		return
	}
	if !q.wanted && q.values == nil {
		f.is = true
	}
	if isContainer(kind) || f.is {
		return
	}
	text := i.Value()
	if kind == jscan.ValueTypeString {
		text = Text(text)
	}
	if q.wanted {
		f.is, f.text = true, string(text)
		return
	}
	for _, value := range q.values {
		f.is = f.is || value == string(text)
	}
}

// Text returns the characters of a valid JSON string, as encoding/json reads it.
func Text(quoted []byte) []byte {
	if raw := quoted[1 : len(quoted)-1]; bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw) {
		return raw
	}
	var text string
	_ = json.Unmarshal(quoted, &text) // cannot fail: the string is valid
	return []byte(text)
}
