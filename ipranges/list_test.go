package ipranges

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// published is a document as Intercom publishes it, with these outbound ranges.
func published(ranges ...string) string {
	entries := make([]string, len(ranges))
	for i, r := range ranges {
		entries[i] = fmt.Sprintf(`{"range":%q,"region":"US","service":"INTERCOM-OUTBOUND"}`, r)
	}
	return `{"ip_ranges":[` + strings.Join(entries, ",") + `],"date":"2026-11-02"}`
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestParsePublished(t *testing.T) {
	for _, tc := range []struct {
		name, document string
		want           []netip.Prefix
		err            string
	}{
		{name: "one range", document: published("192.0.2.7/32"), want: prefixes("192.0.2.7/32")},
		{name: "out of order, and one twice", document: published("198.51.100.0/24", "192.0.2.7/32", "192.0.2.7/32"),
			want: prefixes("192.0.2.7/32", "198.51.100.0/24")},
		{name: "an address without a length", document: published("192.0.2.7"), want: prefixes("192.0.2.7/32")},
		{name: "bits behind the length", document: published("192.0.2.7/24"), want: prefixes("192.0.2.0/24")},
		{name: "the widest", document: published("198.51.0.0/16", "2001:db8::/32"), want: prefixes("198.51.0.0/16", "2001:db8::/32")},
		{name: "other services are left out", want: prefixes("192.0.2.7/32"),
			document: `{"ip_ranges":[{"range":"18.97.36.0/25","region":"US","service":"INTERCOM-ENDPOINTS"},
				{"range":"192.0.2.7/32","region":"US","service":"INTERCOM-OUTBOUND"}],"date":"2026-11-02"}`},
		{name: "other fields are left alone", want: prefixes("192.0.2.7/32"),
			document: `{"version":2,"ip_ranges":[{"range":"192.0.2.7/32","service":"INTERCOM-OUTBOUND","new":{}}]}`},

		{name: "nothing", document: "", err: "not the documented JSON"},
		{name: "HTML", document: "<!doctype html><title>Sign in</title>", err: "not the documented JSON"},
		{name: "cut short", document: published("192.0.2.7/32")[:40], err: "not the documented JSON"},
		{name: "more behind it", document: published("192.0.2.7/32") + "{}", err: "not the documented JSON"},
		{name: "another shape", document: `["192.0.2.7/32"]`, err: "not the documented JSON"},
		{name: "ranges of another shape", document: `{"ip_ranges":["192.0.2.7/32"]}`, err: "not the documented JSON"},
		{name: "a range of another shape", document: `{"ip_ranges":[{"range":7,"service":"INTERCOM-OUTBOUND"}]}`, err: "not the documented JSON"},
		{name: "too many", document: published(slices.Repeat([]string{"192.0.2.7"}, 1001)...), err: "more than 1000 ranges"},
		{name: "null", document: "null", err: "no range of the service INTERCOM-OUTBOUND"},
		{name: "an empty list", document: published(), err: "no range of the service INTERCOM-OUTBOUND"},
		{name: "other services only", err: "no range of the service INTERCOM-OUTBOUND",
			document: `{"ip_ranges":[{"range":"18.97.36.0/25","region":"US","service":"INTERCOM-ENDPOINTS"}]}`},
		{name: "half of it bad", document: published("192.0.2.7/32", "192.0.2.900/32"), err: `"192.0.2.900/32" is not an address range`},
		{name: "a range that is missing", document: `{"ip_ranges":[{"service":"INTERCOM-OUTBOUND"}]}`, err: `"" is not an address range`},
		{name: "a range that is a whole text", document: published("192.0.2.7/32", strings.Repeat("x", 1000)),
			err: `"` + strings.Repeat("x", 64) + `" is not an address range`},
		{name: "everybody", document: published("192.0.2.7/32", "0.0.0.0/0"), err: "0.0.0.0/0 is wider than /16"},
		{name: "everybody with IPv6", document: published("192.0.2.7/32", "::/0"), err: "::/0 is wider than /32"},
		{name: "everybody in another service", err: "0.0.0.0/0 is wider than /16",
			document: `{"ip_ranges":[{"range":"192.0.2.7/32","service":"INTERCOM-OUTBOUND"},{"range":"0.0.0.0/0","service":"INTERCOM-GENERAL"}]}`},
		{name: "too wide", document: published("198.50.0.0/15"), err: "198.50.0.0/15 is wider than /16"},
		{name: "too wide with IPv6", document: published("2001:db8::/31"), err: "2001:db8::/31 is wider than /32"},
		{name: "private", document: published("10.1.0.0/16"), err: "10.1.0.0/16 is private"},
		{name: "at the end of what is private", document: published("172.31.255.255/32"), err: "172.31.255.255/32 is private"},
		{name: "this host", document: published("127.0.0.1"), err: "127.0.0.1/32 is private"},
		{name: "behind a carrier's NAT", document: published("100.127.0.1"), err: "100.127.0.1/32 is private"},
		{name: "of test networks", document: published("198.18.0.1"), err: "198.18.0.1/32 is private"},
		{name: "multicast", document: published("224.0.0.1"), err: "224.0.0.1/32 is private"},
		{name: "private with IPv6", document: published("fd00::/48"), err: "fd00::/48 is private"},
		{name: "this host with IPv6", document: published("::1"), err: "::1/128 is private"},
		{name: "IPv4 written as IPv6", document: published("::ffff:192.0.2.7/128"), err: "::ffff:192.0.2.7/128 is private"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			list, err := parsePublished([]byte(tc.document))
			switch {
			case tc.err != "":
				if err == nil || !strings.Contains(err.Error(), tc.err) || len(err.Error()) > 200 {
					t.Errorf("error %v, want %q", err, tc.err)
				}
			case err != nil:
				t.Error(err)
			case !slices.Equal(list.Ranges, tc.want):
				t.Errorf("got %v, want %v", list.Ranges, tc.want)
			}
		})
	}
}

func TestCompiledInListsAreGoodOnes(t *testing.T) {
	for _, region := range regions {
		list, err := parsePublished([]byte(published(compiledIn[region]...)))
		if err != nil {
			t.Errorf("%s: %v", region, err)
		} else if !slices.Equal(list.Ranges, compiledInList(region).Ranges) {
			t.Errorf("%s: %v is out of order", region, compiledIn[region])
		}
	}
	if len(compiledIn) != len(regions) {
		t.Errorf("lists of %d regions are compiled in, want %d", len(compiledIn), len(regions))
	}
}

// Without network and without storage, the compiled-in list is all that there is.
func TestCompiledInListIsNotTooOld(t *testing.T) {
	const months = 18
	if time.Now().After(compiledInDate.AddDate(0, months, 0)) {
		t.Errorf("the compiled-in list of Intercom's addresses is of %s, more than %d months ago. Renew it:\n"+
			"1. Run `go run ./cmd/caddy intercom-webhook ip-ranges --fetch`, which prints the lists of today.\n"+
			"2. Put them into compiledIn in ipranges/list.go, sorted as they are printed, and today's date into compiledInDate.\n"+
			"3. Put the date, and the number of ranges if that has changed, wherever the old ones are: "+
			"`grep -rn %s .` finds docs/caddyfile.md and the tests.",
			compiledInDate.Format(time.DateOnly), months, compiledInDate.Format(time.DateOnly))
	}
}

func TestParseStored(t *testing.T) {
	list := &List{
		Ranges:  prefixes("192.0.2.7/32", "2001:db8::/48"),
		Checked: time.Date(2026, 11, 23, 10, 11, 12, 0, time.UTC),
		Source:  sourceStorage,
	}
	stored, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := parseStored(stored); err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("%+v was stored, and %+v was read: %v", list, got, err)
	}
	earlier := `{"ranges":["192.0.2.7/32","2001:db8::/48"],"checked":"2026-11-23T10:11:12Z","etag":"\"abc\"","last_modified":"Mon, 02 Nov 2026 09:00:00 GMT"}`
	if got, err := parseStored([]byte(earlier)); err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("%+v was read of what an earlier version stored: %v", got, err)
	}
	for name, content := range map[string]string{
		"nothing":             "",
		"cut short":           string(stored[:len(stored)/2]),
		"an empty list":       `{"ranges":[],"checked":"2026-11-23T10:11:12Z"}`,
		"no list":             `{"checked":"2026-11-23T10:11:12Z"}`,
		"everybody":           `{"ranges":["0.0.0.0/0"],"checked":"2026-11-23T10:11:12Z"}`,
		"a range without one": `{"ranges":[""],"checked":"2026-11-23T10:11:12Z"}`,
		"private":             `{"ranges":["192.0.2.7/32","192.168.7.0/24"],"checked":"2026-11-23T10:11:12Z"}`,
		"a long text":         `{"ranges":["` + strings.Repeat("1", 1<<20) + `"],"checked":"2026-11-23T10:11:12Z"}`,
		"a wrong time":        `{"ranges":["192.0.2.7/32"],"checked":"yesterday"}`,
	} {
		if got, err := parseStored([]byte(content)); err == nil || len(err.Error()) > 300 {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestDifferenceOfLists(t *testing.T) {
	older, newer := &List{Ranges: prefixes("192.0.2.7/32", "198.51.100.0/24")}, &List{Ranges: prefixes("192.0.2.7/32", "203.0.113.9/32")}
	if added := newer.without(older); !slices.Equal(added, prefixes("203.0.113.9/32")) {
		t.Errorf("added %v", added)
	}
	if removed := older.without(newer); !slices.Equal(removed, prefixes("198.51.100.0/24")) {
		t.Errorf("removed %v", removed)
	}
}

// Whatever is published, what is taken from it lets in no more than it says.
func FuzzParsePublished(f *testing.F) {
	for _, seed := range []string{
		published("192.0.2.7/32", "2001:db8::/48"), published("0.0.0.0/0"), published("10.0.0.0/16"), published("192.0.2.7/24", "192.0.2.9/24"),
		published(), "null", `{"ip_ranges":[{"range":"18.97.36.0/25","service":"INTERCOM-ENDPOINTS"}]}`, `{"ip_ranges":null}`, `<html>`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		list, err := parsePublished(document)
		if err != nil {
			return
		}
		checkInvariants(t, list)
		var plain struct {
			IPRanges []struct{ Range, Service string } `json:"ip_ranges"`
		}
		if err := json.Unmarshal(document, &plain); err != nil {
			t.Fatalf("accepted what is no JSON: %v", err)
		}
		for _, prefix := range list.Ranges {
			if !slices.ContainsFunc(plain.IPRanges, func(e struct{ Range, Service string }) bool {
				address, _, _ := strings.Cut(e.Range, "/")
				addr, err := netip.ParseAddr(address)
				return err == nil && e.Service == "INTERCOM-OUTBOUND" && prefix.Contains(addr)
			}) {
				t.Errorf("%s is not published", prefix)
			}
		}
	})
}

func FuzzParseStored(f *testing.F) {
	for _, seed := range []string{
		`{"ranges":["192.0.2.7/32","2001:db8::/48"],"checked":"2026-11-23T10:11:12Z","etag":"\"a\"","last_modified":"x"}`,
		`{"ranges":["0.0.0.0/0"]}`, `{"ranges":[""]}`, `{"ranges":null}`, `[]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		list, err := parseStored(content)
		if err != nil {
			return
		}
		checkInvariants(t, list)
		again, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if read, err := parseStored(again); err != nil || !slices.Equal(read.Ranges, list.Ranges) || !read.Checked.Equal(list.Checked) {
			t.Errorf("%s was stored as %s: %v", content, again, err)
		}
	})
}

// checkInvariants says in other words than checkRange what a list never lets in.
func checkInvariants(t *testing.T, list *List) {
	t.Helper()
	if len(list.Ranges) == 0 {
		t.Error("an empty list")
	}
	for i, prefix := range list.Ranges {
		first := prefix.Addr()
		if !prefix.IsValid() || prefix != prefix.Masked() || first.Is4In6() {
			t.Errorf("%s is no plain range", prefix)
		}
		if hosts := first.BitLen() - prefix.Bits(); first.Is4() && hosts > 16 || first.Is6() && hosts > 96 {
			t.Errorf("%s has too many addresses", prefix)
		}
		last := first.AsSlice()
		for bit := prefix.Bits(); bit < first.BitLen(); bit++ {
			last[bit/8] |= 1 << (7 - bit%8)
		}
		end, _ := netip.AddrFromSlice(last)
		for _, addr := range []netip.Addr{first, end} {
			if addr.IsPrivate() || addr.IsLoopback() || addr.IsUnspecified() || addr.IsLinkLocalUnicast() || addr.IsMulticast() {
				t.Errorf("%s has %s", prefix, addr)
			}
		}
		if i > 0 && prefix.Compare(list.Ranges[i-1]) <= 0 {
			t.Errorf("%s follows %s", prefix, list.Ranges[i-1])
		}
	}
}
