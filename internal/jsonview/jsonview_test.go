package jsonview

import (
	"bytes"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
)

func FuzzIndent(f *testing.F) {
	for _, document := range []string{
		`{"a":[1,{"b":"\"}"}],"c":{},"d":[ ],"e":null}`, ` [ 1 , -2.5e3 , true ] `, `"x"`, `1`, "no JSON", ``, `{"a" : "\\","b":[[]]}`, `[[1],[2,[3]]]`,
	} {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		text, all := Indent(document)
		if !all { // nothing may be lost
			if got, want := compact(text), compact(document); !bytes.Equal(got, want) {
				t.Errorf("%q has become %q", want, got)
			}
			return
		}
		var want bytes.Buffer
		if err := json.Indent(&want, bytes.TrimSpace(document), "", "  "); err != nil || !bytes.Equal(text, want.Bytes()) {
			t.Errorf("%q: %q, want %q (%v)", document, text, want.Bytes(), err)
		}
	})
}

// compact returns a document without white space, or as it is if it is no JSON.
func compact(document []byte) []byte {
	var out bytes.Buffer
	if json.Compact(&out, document) != nil {
		return document
	}
	return out.Bytes()
}

// Indenting 0.2 MB that were nested 9,000 levels deep took more than 1 GB.
func TestIndentingIsBounded(t *testing.T) {
	deep := strings.Repeat("[", 9000)
	wide := strings.Repeat(`[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1,1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],`, 60_000)
	for name, document := range map[string]string{
		"deep":              deep + strings.Repeat("1,", 90_000) + "1" + strings.Repeat("]", 9000),
		"deep in places":    "[" + strings.Repeat(deep[:5000]+strings.Repeat("]", 5000)+",", 20) + "1]",
		"too deep for JSON": strings.Repeat("[", 2_000_000),
		"wide":              "[" + wide + "1]",
		"many lines":        "[" + strings.Repeat("1,", 2_000_000) + "1]",
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			text, all := Indent([]byte(document))
			runtime.ReadMemStats(&after)
			if most := len(document) + maxLines*(2*MaxDepth+1); all || len(text) > most {
				t.Errorf("%d bytes have become %d, want at most %d and not all of it indented (%v)", len(document), len(text), most, all)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 200<<20 {
				t.Errorf("it took %d bytes", took)
			}
			if !bytes.Equal(compact(text), compact([]byte(document))) {
				t.Error("something is lost")
			}
		})
	}
}

func TestLines(t *testing.T) {
	var got []string
	for line := range Lines([]byte(`{"a":[1,{"b":2}],"c":3}`), 5) {
		text := strings.Repeat(" ", line.Depth) + string(line.Text)
		for suffix, is := range map[string]bool{" opens": line.Opens, " closes": line.Closes, " as is": line.AsIs} {
			if is {
				text += suffix
			}
		}
		got = append(got, text)
	}
	if want := `{ opens| "a": [ opens|  1,|  { opens|   "b":2}],"c":3} as is`; strings.Join(got, "|") != want {
		t.Errorf("%s, want %s", strings.Join(got, "|"), want)
	}
}
