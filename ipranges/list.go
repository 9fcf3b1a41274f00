package ipranges

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// List is what Intercom published for a region. Its JSON is the form in storage.
type List struct {
	Ranges []netip.Prefix `json:"ranges"` // sorted, each once

	// Checked is when Intercom was last known to publish exactly these ranges.
	Checked time.Time `json:"checked"`

	// The validators of Intercom's answer, for conditional requests. They are not
	// stored: if a list in storage is wrong, "304 Not Modified" would confirm it for ever.
	etag         string
	lastModified string

	Source string `json:"-"` // one of the source constants
}

// The values of List.Source.
const (
	sourceCompiledIn = "compiled in"
	sourceStorage    = "storage"
	sourceIntercom   = "intercom"
)

// compiledIn has what Intercom published on compiledInDate, by region.
var compiledIn = map[string][]string{
	"us": {
		"34.197.76.213/32",
		"34.231.68.152/32",
		"35.169.138.21/32",
		"35.171.78.91/32",
		"52.44.63.161/32",
		"52.70.27.159/32",
	},
	"eu": {
		"54.216.9.3/32",
		"54.217.125.63/32",
		"54.246.173.113/32",
	},
	"au": {
		"3.104.68.152/32",
		"52.63.36.185/32",
		"52.64.2.165/32",
	},
}

var compiledInDate = time.Date(2026, time.June, 29, 0, 0, 0, 0, time.UTC)

func compiledInList(region string) *List {
	list := &List{Checked: compiledInDate, Source: sourceCompiledIn}
	for _, text := range compiledIn[region] {
		list.Ranges = append(list.Ranges, netip.MustParsePrefix(text))
	}
	return list
}

// outboundService is the service of the addresses that send webhooks. The document has
// other services, too.
const outboundService = "INTERCOM-OUTBOUND"

// parsePublished reads the document that Intercom publishes for a region. One invalid
// entry makes the whole document invalid.
func parsePublished(document []byte) (*List, error) {
	var published struct {
		IPRanges []struct {
			Range   string `json:"range"`
			Service string `json:"service"`
		} `json:"ip_ranges"`
	}
	if err := json.Unmarshal(document, &published); err != nil {
		return nil, fmt.Errorf("not the documented JSON: %w", err)
	}
	var outbound []netip.Prefix
	for _, entry := range published.IPRanges {
		// The error of CIDRExpressionToPrefix is not used: it quotes a text of any length.
		prefix, err := caddyhttp.CIDRExpressionToPrefix(entry.Range)
		if err != nil {
			return nil, fmt.Errorf("%.64q is not an address range", entry.Range)
		}
		if err := checkRange(prefix); err != nil {
			return nil, err
		}
		if entry.Service == outboundService {
			outbound = append(outbound, prefix)
		}
	}
	ranges, err := normalize(outbound)
	if err != nil {
		return nil, err
	}
	return &List{Ranges: ranges}, nil
}

// parseStored reads a list from storage. It checks the list like a published one,
// because others may be able to write to storage.
func parseStored(stored []byte) (*List, error) {
	var list List
	if err := json.Unmarshal(stored, &list); err != nil {
		return nil, fmt.Errorf("decoding: %.200s", err.Error()) // cut, because it may quote a whole value
	}
	for _, prefix := range list.Ranges {
		if err := checkRange(prefix); err != nil {
			return nil, err
		}
	}
	var err error
	if list.Ranges, err = normalize(list.Ranges); err != nil {
		return nil, err
	}
	list.Source = sourceStorage
	if list.Checked.After(time.Now()) { // the clock was wrong, and the list would stay the newest for long
		list.Checked = compiledInDate
	}
	return &list, nil
}

// normalize masks and sorts the ranges and removes duplicates. It returns an error if
// there are none or too many.
func normalize(ranges []netip.Prefix) ([]netip.Prefix, error) {
	if len(ranges) == 0 {
		return nil, errors.New("no range of the service " + outboundService)
	}
	if len(ranges) > maxRanges {
		return nil, fmt.Errorf("more than %d ranges", maxRanges)
	}
	for i := range ranges {
		ranges[i] = ranges[i].Masked()
	}
	slices.SortFunc(ranges, netip.Prefix.Compare)
	return slices.Compact(ranges), nil
}

// The widest range and the longest list that are accepted. In 2026, Intercom has 12
// addresses.
const (
	widestIPv4 = 16
	widestIPv6 = 32
	maxRanges  = 1000
)

var (
	// globalIPv6 has all IPv6 addresses that are assigned for the public internet.
	// Source: https://www.iana.org/assignments/ipv6-address-space
	globalIPv6 = netip.MustParsePrefix("2000::/3")

	// internalIPv4 has the addresses that are not on the public internet.
	// Source: https://www.iana.org/assignments/iana-ipv4-special-registry
	internalIPv4 = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("100.64.0.0/10"),
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.0.0.0/24"),
		netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("198.18.0.0/15"),
		netip.MustParsePrefix("224.0.0.0/3"),
	}
)

// checkRange returns an error for a range that would let in others than Intercom.
func checkRange(prefix netip.Prefix) error {
	switch addr := prefix.Addr(); {
	case !prefix.IsValid():
		return errors.New("a range is empty")
	case addr.Is4() && prefix.Bits() < widestIPv4:
		return fmt.Errorf("%s is wider than /%d", prefix, widestIPv4)
	case addr.Is6() && prefix.Bits() < widestIPv6:
		return fmt.Errorf("%s is wider than /%d", prefix, widestIPv6)
	case addr.Is4() && slices.ContainsFunc(internalIPv4, prefix.Overlaps),
		addr.Is6() && !globalIPv6.Contains(addr):
		return fmt.Errorf("%s is private, not a range of the public internet", prefix)
	}
	return nil
}

// without returns the ranges that the other list lacks.
func (l *List) without(other *List) []netip.Prefix {
	var rest []netip.Prefix
	for _, prefix := range l.Ranges {
		if _, found := slices.BinarySearchFunc(other.Ranges, prefix, netip.Prefix.Compare); !found {
			rest = append(rest, prefix)
		}
	}
	return rest
}

// MarshalLogObject writes the number of ranges, the source and the age of the list.
func (l *List) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddInt("ranges", len(l.Ranges))
	enc.AddString("source", l.Source)
	enc.AddString("as_of", l.Checked.Format(time.RFC3339))
	return nil
}

// Interface guard
var _ zapcore.ObjectMarshaler = (*List)(nil)
