package fields

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestConditions(t *testing.T) {
	const body = `{"app_id":"tulip4","data":{"item":{"id":"7","state":"open","priority":true,"waiting":null,"count":1.50,"name":"Zo\u00eb \ud83d\ude00",
		"slash":"a\/b","empty":"","author":{"id":42,"type":"bot"},"custom":{"Plan":"pro","0":"zero"},
		"tags":{"tags":[{"name":"vip"},{"name":"new","id":5},{"none":null}]},"matrix":[[1,2],[3]],"nothing":[],"nulls":[null]}},"topic":"a"}`
	for text, want := range map[string]bool{
		"data.item.state=open": true, "data.item.state=closed": false, "data.item.state=closed|open": true, "data.item.state=Open": false,
		"data.item.state!=open": false, "data.item.state!=closed": true, "data.item.state!=closed|open": false,
		"data.item.gone=x": false, "data.item.gone!=x": true, "data.item.gone": false, "data.item.state": true,
		"data.item.state.deeper": false, "data.item.state.deeper!=x": true, "state=open": false,
		"data.item.waiting": false, "data.item.waiting!=x": true, "data.item.waiting=null": false,
		"data.item.priority=true": true, "data.item.priority=false": false,
		"data.item.count=1.50": true, "data.item.count=1.5": false, "data.item.author.id=42": true,
		"data.item.name=Zoë 😀": true, "data.item.slash=a/b": true, "data.item.empty=": true, "data.item.empty!=": false, "data.item.empty": true,
		"data.item.author": true, "data.item.author=bot": false, "data.item.author!=bot": true, "data.item.author.*=bot": true,
		"data.item.custom.Plan=pro": true, "data.item.custom.plan=pro": false, "data.item.custom.0=zero": true,
		"data.item.tags.tags.*.name=vip": true, "data.item.tags.tags.*.name=new|x": true, "data.item.tags.tags.*.name=old": false,
		"data.item.tags.tags.*.name!=new": false, "data.item.tags.tags.*.name!=old": true, "data.item.tags.tags.*.none": false,
		"data.item.tags.tags.1.name=new": true, "data.item.tags.tags.0.name=new": false, "data.item.tags.tags.01.name=new": false,
		"data.item.tags.*.*.name=vip": true, "data.item.tags.tags.9": false, "data.item.tags.tags.*": true,
		"data.item.matrix.*.*=3": true, "data.item.matrix.0.1=2": true, "data.item.matrix.*.1=3": false,
		"data.item.nothing": true, "data.item.nothing.*": false, "data.item.nulls.*": false, "*=tulip4": true, "*.item.id=7": true,
	} {
		var plan Plan
		if err := errors.Join(plan.Require("data.item.tags.tags"), plan.Require(text)); err != nil { // paths are shared
			t.Error(err)
			continue
		}
		values, err := plan.Read([]byte(body))
		if got := values.Holds(text); err != nil || got != want {
			t.Errorf("%s: %v, error %v", text, got, err)
		}
	}
}

func TestTexts(t *testing.T) {
	for path, want := range map[string]string{
		"a": "x\ty", "b": "-0.10e2", "c": "false", "d": "", "e": "", "f.*.g": "first", "gone": "", "f.1.g": "second",
	} {
		var plan Plan
		number := plan.Want(path)
		values, err := plan.Read([]byte(`{"a":"x\ty","b":-0.10e2,"c":false,"d":null,"e":{"a":1},"f":[{"g":"first"},{"g":"second"}]}`))
		if got := values.Text(number); err != nil || got != want {
			t.Errorf("%s is %q, error %v; want %q", path, got, err, want)
		}
	}
	if (Values{}).Text(0) != "" || (Values{}).Holds("a") {
		t.Error("what was never read has values")
	}
}

func TestRepeatedKeysOfAPathAreRefused(t *testing.T) {
	for body, want := range map[string]error{
		`{"data":{"item":{"state":1,"state":1}}}`:                                               ErrRepeated,
		`{"data":{"item":{"state":1,"State":2}}}`:                                               ErrRepeated,
		`{"data":{"item":{"STATE":1,"State":2}}}`:                                               ErrRepeated,
		`{"data":{"item":{"\u017ftate":1,"st\u0061te":2}}}`:                                     ErrRepeated,
		`{"data":{"item":{}},"Data":1}`:                                                         ErrRepeated,
		`{"data":{"item":{"state":{},"state":{}},"Item":null}}`:                                 ErrRepeated,
		`{"any":{"x":1,"x":1}}`:                                                                 ErrRepeated,
		`{"any":[{"x":1},{"x":1}]}`:                                                             nil,
		`{"any":{"x":1,"X":1}}`:                                                                 nil, // two elements, as with any other names
		`{"data":{"item":{"State":1}}}`:                                                         nil, // another field
		`{"other":1,"other":2,"data":{"x":1,"x":2,"item":{"state":{"y":1,"y":2},"x":1,"x":2}}}`: nil, // on no path
		`{"list":[{"a":1},{"a":1}]}`:                                                            nil,
		`{"list":[{"a":1},{"a":1,"a":2}]}`:                                                      ErrRepeated,
		`{"data":`:                                                                              ErrInvalid,
		strings.Repeat("[", 2000) + strings.Repeat("]", 2000):                                   ErrInvalid,
	} {
		var plan Plan
		plan.Want("data.item.state")
		plan.Want("any.*")
		plan.Want("list.*.a")
		if _, err := plan.Read([]byte(body)); !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", body, err, want)
		}
	}
}

func TestMalformedConditions(t *testing.T) {
	for text, want := range map[string]string{
		"": "the field is missing", "=open": "the field is missing", "!=open": "the field is missing",
		"data..state=open": "empty segment", ".data": "empty segment", "data.": "empty segment",
		"data.item state": "cannot be in a path", "data.\u00a0x": "cannot be in a path", "data.x\x00": "cannot be in a path", "a\u200b": "cannot be in a path", "a\xff": "cannot be in a path",
		"data.tag*=x": "must be a whole segment", "data.**": "must be a whole segment",
		"data.x>=5": "compares with = or !=", "data.x<5": "compares with = or !=", "data.x!": "compares with = or !=", "{env.X}=a": "cannot be in a path",
		"a==b": "not with ==", "a=b||c": "empty", "a=b|": "empty", "a=b|b": "given twice",
		`a="b"`: "around the whole condition", "a=`b`": "around the whole condition", "a={env.X}": "not expanded",
		strings.Repeat("a", 256): "at most 255 bytes",
	} {
		if err := CheckCondition(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
	for _, text := range []string{"a", "*", "a.*.0=x", "a=", "a!=", "a=b=c", "a=x y|z", "a_b-c.É=ü", "a=https://x/y?z", "a={x}", "a=!b"} {
		if err := CheckCondition(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestNothingIsReadWithoutFields(t *testing.T) {
	body := []byte("no JSON")
	for _, plan := range []*Plan{nil, new(Plan)} {
		if got := testing.AllocsPerRun(100, func() {
			if values, err := plan.Read(body); err != nil || values.Holds("a") {
				t.Error(err)
			}
		}); got > 0 {
			t.Errorf("%v allocations", got)
		}
	}
}

// member is a member of an object, or an element of an array, of the second implementation.
type member struct {
	key   string
	value any
}

type (
	object []member
	array  []any
)

// decode reads a value with encoding/json, and keeps the order and the repetition of keys.
func decode(d *json.Decoder) any {
	token, err := d.Token()
	if err != nil {
		panic(err)
	}
	switch token {
	case json.Delim('{'):
		o := object{}
		for d.More() {
			key, _ := d.Token()
			o = append(o, member{key.(string), decode(d)})
		}
		_, _ = d.Token()
		return o
	case json.Delim('['):
		a := array{}
		for d.More() {
			a = append(a, decode(d))
		}
		_, _ = d.Token()
		return a
	}
	return token
}

// valuesAt returns what is at a path, and whether a key on the way is repeated.
func valuesAt(value any, path []string) (values []any, repeated bool) {
	if len(path) == 0 {
		return []any{value}, false
	}
	step := func(next any) {
		more, again := valuesAt(next, path[1:])
		values, repeated = append(values, more...), repeated || again
	}
	switch value := value.(type) {
	case object:
		same := 0
		keys := make(map[string]bool)
		for _, m := range value {
			if path[0] == "*" {
				repeated = repeated || keys[m.key]
				keys[m.key] = true
				step(m.value)
				continue
			}
			if strings.EqualFold(m.key, path[0]) {
				same++
			}
			if m.key == path[0] {
				step(m.value)
			}
		}
		repeated = repeated || same > 1
	case array:
		for i, element := range value {
			if path[0] == "*" || path[0] == strconv.Itoa(i) {
				step(element)
			}
		}
	}
	return values, repeated
}

func textOf(value any) (text string, scalar bool) {
	switch value := value.(type) {
	case string:
		return value, true
	case json.Number:
		return value.String(), true
	case bool:
		return strconv.FormatBool(value), true
	}
	return "", false
}

// FuzzRead holds Read against a second implementation on encoding/json.
func FuzzRead(f *testing.F) {
	for _, seed := range [][3]string{
		{`{"data":{"item":{"state":"open","tags":[{"name":"a"},{"name":"\ud83d\ude00"}]}}}`, "data.item.tags.*.name=😀", "data.item.state"},
		{`{"a":{"b":1,"B":2}}`, "a.b=1", "a.*"}, {`{"a":[[1,[2]],{"x":null}]}`, "a.*.*=2|1", "a.1.x"}, {`{"a":"\ud800","b":"` + "\xff" + `"}`, "b=\ufffd", "a"},
		{`[1,-0.0,true]`, "1=-0.0", "*"}, {`{"a":{"a":{"a":1}},"b":{"a":2}}`, "*.a=2", "a.a.a"}, {`{"a":{"b":1}}`, "a.*=1", "*.*"}, {`{"":1}`, "*!=1", "a"}, {"{\"a\xff\":1}", "a\ufffd=1", "a\xff"}, {`{"a.b":1,"0":{"0":[5]}}`, "0.0.0", "0.*"},
	} {
		f.Add([]byte(seed[0]), seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, body []byte, text, path string) {
		c, err := parseCondition(text)
		if err != nil || CheckPath(path) != nil {
			return
		}
		var plan Plan
		if err := plan.Require(text); err != nil {
			t.Fatal(err)
		}
		field := plan.Want(path)
		got, err := plan.Read(body)
		if !json.Valid(body) {
			if err == nil {
				t.Fatal("accepted what encoding/json does not")
			}
			return
		}
		if errors.Is(err, ErrInvalid) { // only what is too deep
			if bytes.Count(body, []byte("["))+bytes.Count(body, []byte("{")) <= MaxDepth {
				t.Fatal(err)
			}
			return
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber()
		decoded := decode(d)
		compared, repeated := valuesAt(decoded, strings.Split(c.path, "."))
		wanted, repeatedToo := valuesAt(decoded, strings.Split(path, "."))
		if repeated = repeated || repeatedToo; repeated != errors.Is(err, ErrRepeated) {
			t.Fatalf("error %v; encoding/json finds repeated keys: %v", err, repeated)
		}
		if err != nil {
			return
		}
		holds := slices.ContainsFunc(compared, func(value any) bool {
			text, scalar := textOf(value)
			return c.values == nil && value != nil || scalar && slices.Contains(c.values, text)
		}) != c.not
		if got.Holds(text) != holds {
			t.Errorf("%s holds: %v, with encoding/json %v", text, !holds, holds)
		}
		var first string
		if i := slices.IndexFunc(wanted, func(value any) bool { _, scalar := textOf(value); return scalar }); i >= 0 {
			first, _ = textOf(wanted[i])
		}
		if got.Text(field) != first {
			t.Errorf("%s is %q, with encoding/json %q", path, got.Text(field), first)
		}
	})
}
