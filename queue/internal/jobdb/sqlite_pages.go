package jobdb

import (
	"encoding/binary"
	"fmt"
)

// sqlitePages finds what was deleted in the pages of an SQLite file.
// Source: https://www.sqlite.org/fileformat2.html
type sqlitePages struct {
	read   func(page uint32) ([]byte, error)
	usable int             // bytes of a page
	maps   uint32          // each so many pages, one is a pointer map; 0: none is
	trunks map[uint32]bool // free pages that list others
	free   map[uint32]bool // the others
}

// Pages of b-trees, by their first byte. In a file of up to maxSQLitePages, the first byte
// of all others but pointer maps is less.
const (
	indexInterior, tableInterior, indexLeaf, tableLeaf = 2, 5, 10, 13

	maxSQLitePages = 2 << 24
)

// openPages reads the list of free pages. All must be read in one transaction.
func openPages(read func(page uint32) ([]byte, error)) (*sqlitePages, error) {
	header, err := read(1)
	if err != nil {
		return nil, err
	}
	if len(header) < 512 {
		return nil, errSQLitePage(1)
	}
	p := &sqlitePages{read: read, usable: len(header) - int(header[20]), trunks: make(map[uint32]bool), free: make(map[uint32]bool)}
	if number(header, 52) != 0 {
		p.maps = uint32(p.usable/5 + 1) //nolint:gosec // a page has 64 KiB at most
	}
	for trunk := number(header, 32); trunk != 0; {
		if p.trunks[trunk] {
			return nil, errSQLitePage(trunk)
		}
		p.trunks[trunk] = true
		page, err := read(trunk)
		if err != nil {
			return nil, err
		}
		end, err := trunkEnd(trunk, page)
		if err != nil {
			return nil, err
		}
		for at := 8; at < end; at += 4 {
			p.free[number(page, at)] = true
		}
		trunk = number(page, 0)
	}
	return p, nil
}

func errSQLitePage(page uint32) error { return fmt.Errorf("page %d of the file is malformed", page) }

func number(page []byte, at int) uint32 { return binary.BigEndian.Uint32(page[at:]) }

func short(page []byte, at int) int { return int(binary.BigEndian.Uint16(page[at:])) }

func trunkEnd(trunk uint32, page []byte) (int, error) {
	if n := int64(number(page, 4)); n <= int64(len(page)/4-2) {
		return 8 + 4*int(n), nil
	}
	return 0, errSQLitePage(trunk)
}

// scrub calls clean with each page that has bytes which belong to nothing, and with the
// page as it is without them: the page itself, and the last pages of those rows that begin
// in it and do not fit.
func (p *sqlitePages) scrub(n uint32, clean func(n uint32, page []byte) error) error {
	page, err := p.read(n)
	if err != nil {
		return err
	}
	var found bool
	switch header := headerAt(n); {
	case p.free[n]:
		found = zero(page)
	case p.trunks[n]:
		end, err := trunkEnd(n, page)
		if err != nil {
			return err
		}
		found = zero(page[end:])
	case p.maps != 0 && n >= 2 && (n-2)%p.maps == 0:
	case page[header] == indexInterior || page[header] == tableInterior || page[header] == indexLeaf || page[header] == tableLeaf:
		if found, err = p.zeroUnused(n, page); err != nil {
			return err
		}
		if page[header] == tableLeaf {
			if err := p.scrubTails(n, page, clean); err != nil {
				return err
			}
		}
	}
	if found {
		return clean(n, page)
	}
	return nil
}

// headerAt returns where the header of a b-tree's page begins.
func headerAt(n uint32) int {
	if n == 1 {
		return 100 // behind the header of the file
	}
	return 0
}

// cellsOf returns where the pointers to a page's cells begin and end.
func cellsOf(n uint32, page []byte) (begin, end int) {
	header := headerAt(n)
	begin = header + 8
	if page[header] == indexInterior || page[header] == tableInterior {
		begin = header + 12
	}
	return begin, begin + 2*short(page, header+3)
}

// zeroUnused zeroes what is between the pointers and the cells of a b-tree's page, and its
// freed blocks.
func (p *sqlitePages) zeroUnused(n uint32, page []byte) (found bool, err error) {
	header := headerAt(n)
	_, begin := cellsOf(n, page)
	end := short(page, header+5)
	if end == 0 {
		end = 1 << 16
	}
	if begin > end || end > p.usable {
		return false, errSQLitePage(n)
	}
	found = zero(page[begin:end])
	for at, last := short(page, header+1), 0; at != 0; at = short(page, at) {
		if at < end || at <= last || at+4 > p.usable || at+short(page, at+2) > p.usable || short(page, at+2) < 4 {
			return false, errSQLitePage(n)
		}
		last = at
		found = zero(page[at+4:at+short(page, at+2)]) || found
	}
	return found, nil
}

// scrubTails cleans the last pages of rows that do not fit into a leaf.
func (p *sqlitePages) scrubTails(n uint32, page []byte, clean func(n uint32, page []byte) error) error {
	begin, end := cellsOf(n, page)
	seen := make(map[uint32]bool) // a damaged file may have a chain without an end
	for pointer := begin; pointer < end; pointer += 2 {
		at := short(page, pointer)
		size, length := varint(page[min(at, len(page)):])
		_, idLength := varint(page[min(at+length, len(page)):])
		if at += length + idLength; size <= uint64(p.usable-35) { //nolint:gosec // a page has 512 bytes at least
			continue
		}
		if size > 1<<31 {
			return errSQLitePage(n)
		}
		rest := int(size)
		least := (p.usable-12)*32/255 - 23
		local := least + (rest-least)%(p.usable-4)
		if local > p.usable-35 {
			local = least
		}
		if at+local+4 > p.usable {
			return errSQLitePage(n)
		}
		next := number(page, at+local)
		var overflow []byte
		for rest -= local; rest > 0; rest -= p.usable - 4 {
			if seen[next] {
				return errSQLitePage(next)
			}
			seen[next] = true
			var err error
			if overflow, err = p.read(next); err != nil {
				return err
			}
			if rest > p.usable-4 {
				next = number(overflow, 0)
			} else if zero(overflow[4+rest : p.usable]) {
				if err := clean(next, overflow); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// zero zeroes bytes and reports whether they were anything else.
func zero(bytes []byte) (found bool) {
	for _, b := range bytes {
		if b != 0 {
			clear(bytes)
			return true
		}
	}
	return false
}

// varint reads one of SQLite's numbers of variable length.
func varint(bytes []byte) (value uint64, length int) {
	for i, b := range bytes {
		if i == 8 {
			return value<<8 | uint64(b), 9
		}
		value = value<<7 | uint64(b&0x7f)
		if b < 0x80 {
			return value, i + 1
		}
	}
	return 0, len(bytes)
}
