// Package jsonview shows JSON that strangers wrote to people, in lines and indented. What it takes to show a document
// is bounded: indenting alone multiplies what is nested deeply by its depth.
package jsonview

import (
	"bytes"
	"encoding/json"
	"iter"
)

const (
	// MaxDepth is how many levels are indented.
	MaxDepth = 32

	// maxLines is how many lines Indent writes, with at most 2 * MaxDepth spaces each.
	maxLines = 100_000
)

// Line is a line of an indented document.
type Line struct {
	Depth  int
	Text   []byte // without the spaces before it
	Opens  bool   // it ends with the bracket of an object or array, whose lines follow
	Closes bool   // it is the bracket that closes the last one that is open
	AsIs   bool   // it is a part of the document that is left as it came, and may have line breaks
}

// Lines returns the lines of a document. Beyond MaxDepth a value is one line as it came, and so is all that is left
// after limit lines, and a document that is no JSON.
func Lines(document []byte, limit int) iter.Seq[Line] {
	return func(yield func(Line) bool) {
		if !json.Valid(document) {
			yield(Line{Text: document, AsIs: true})
			return
		}
		s := scanner{document: document}
		for s.skip(); s.at < len(document); limit-- {
			if limit <= 1 {
				yield(Line{Depth: s.depth, Text: document[s.at:], AsIs: true})
				return
			}
			if !yield(s.line()) {
				return
			}
		}
	}
}

// Indent returns a document indented by two spaces a level, as json.Indent does, within the limits of this package.
// It reports whether all of it is indented.
func Indent(document []byte) (text []byte, all bool) {
	all = true
	for line := range Lines(document, maxLines) {
		if text != nil {
			text = append(text, '\n')
		}
		text = append(text, bytes.Repeat([]byte("  "), line.Depth)...)
		text = append(text, line.Text...)
		all = all && !line.AsIs
	}
	return text, all
}

// scanner goes through a document that is valid JSON.
type scanner struct {
	document []byte
	at       int
	depth    int
}

// line returns the line that begins here, and goes to the next one.
func (s *scanner) line() (line Line) {
	line.Depth = s.depth
	switch s.document[s.at] {
	case '}', ']':
		s.depth--
		line.Depth, line.Closes = s.depth, true
		line.Text = append(line.Text, s.document[s.at])
		s.at++
	case '"':
		text := s.value()
		if s.skip(); s.at == len(s.document) || s.document[s.at] != ':' {
			line.Text = append(line.Text, text...)
			break
		}
		line.Text = append(append(line.Text, text...), ": "...)
		s.at++
		s.skip()
		s.open(&line)
	default:
		s.open(&line)
	}
	if s.skip(); !line.Opens && s.at < len(s.document) && s.document[s.at] == ',' {
		line.Text = append(line.Text, ',')
		s.at++
		s.skip()
	}
	return line
}

// open adds a value, or only the bracket that opens it if its parts get lines of their own.
func (s *scanner) open(line *Line) {
	begin := s.at
	bracket := s.document[begin]
	if bracket != '{' && bracket != '[' {
		line.Text = append(line.Text, s.value()...)
		return
	}
	s.at++
	s.skip()
	switch c := s.document[s.at]; {
	case c == '}' || c == ']':
		s.at++
		line.Text = append(line.Text, bracket, c)
	case s.depth == MaxDepth:
		s.at, line.AsIs = begin, true
		line.Text = append(line.Text, s.value()...)
	default:
		s.depth++
		line.Opens = true
		line.Text = append(line.Text, bracket)
	}
}

// skip goes to the next character that is not white space.
func (s *scanner) skip() {
	for s.at < len(s.document) && bytes.IndexByte([]byte(" \t\r\n"), s.document[s.at]) >= 0 {
		s.at++
	}
}

// value returns the value that begins here as it came, and goes behind it.
func (s *scanner) value() []byte {
	begin, depth := s.at, 0
	for s.at < len(s.document) {
		switch s.document[s.at] {
		case '"':
			for s.at++; s.document[s.at] != '"'; s.at++ {
				if s.document[s.at] == '\\' {
					s.at++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',', ' ', '\t', '\r', '\n':
		default:
			if next := s.at + 1; next < len(s.document) && bytes.IndexByte([]byte(",}] \t\r\n"), s.document[next]) < 0 {
				s.at++ // a number, true, false or null goes on
				continue
			}
		}
		if s.at++; depth == 0 {
			break
		}
	}
	return s.document[begin:s.at]
}
