package browser

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

var pictures = flag.String("pictures", "", "write the pictures of docs/pages.md into this `folder`")

// maxPictures is how large the pictures of the docs may be together.
const maxPictures = 600_000

// shown are the pages in the docs.
var shown = []struct{ name, path string }{
	{"overview", "/"},
	{"lane", "/lane?endpoint=intercom&lane=support"},
	{"deliveries", "/deliveries?state=retrying,dead&limit=12"},
	{"notification", "/notification?id=notif_7abb5892-6b4e-4a0c-9d2f-51c1f7a0e6d3"},
	{"dead", "/dead"},
	{"confirm", "/confirm?endpoint=intercom&state=dead&lane=support&verb=retry"},
	{"changes", "/changes"},
}

// Each page is legible for everybody, light and dark, on each screen.
func TestPages(t *testing.T) {
	down := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	t.Cleanup(down.Close)
	base := launchWith(t, made(), "", fmt.Sprintf(`
		route conversation.* ticket.* as support to %s
		route contact.* as crm to %[1]s
		route company.* as billing to %[1]s
		route message.* as archive to %[1]s
		copy conversation.user.* as copy-staging to %[1]s`, down.Listener.Addr()))
	remember()
	for i := range 4 {
		postNotification(t, base+"/intercom", notification("conversation.user.created", fmt.Sprintf("notif_%08x-2f1c-4d0e-8a3b-7c6d5e4f3a2b", 0x5eed0000+i)))
	}
	b := newBrowser(t, base+"/queue")
	b.open(base + "/queue/confirm?endpoint=intercom&lane=crm&state=dead&verb=drop")
	b.click("Drop 23 deliveries")
	b.wait("23 of 23 dropped")
	b.openUntil(base+"/queue/", "Lane support is down.")

	total := 0
	for _, p := range shown {
		for _, scheme := range []string{"light", "dark"} {
			for _, width := range []int64{400, 768, 1280, 1920} {
				b.look(width, scheme)
				b.open(base + "/queue" + p.path)
				b.fits()
				if width == 400 || width == 1280 {
					b.barriers(fmt.Sprintf("%s, %s, %d px", p.name, scheme, width))
				}
				if *pictures != "" && width == 1280 {
					total += b.shoot(filepath.Join(*pictures, p.name+"-"+scheme+".png"), width)
				}
			}
		}
	}
	if total > maxPictures {
		t.Errorf("the pictures have %d bytes, want at most %d", total, maxPictures)
	}
}

// shoot takes a picture of the upper part of the page, and returns its size in bytes.
func (b *browser) shoot(file string, width int64) int {
	b.t.Helper()
	var full []byte
	b.do("taking a picture", chromedp.ActionFunc(func(ctx context.Context) (err error) {
		clip := &page.Viewport{Width: float64(width), Height: 900, Scale: 1}
		full, err = page.CaptureScreenshot().WithClip(clip).Do(ctx)
		return err
	}))
	picture, err := png.Decode(bytes.NewReader(full))
	if err != nil {
		b.t.Fatal(err)
	}
	var small bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&small, withFewColors(picture, 64)); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(file, small.Bytes(), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return small.Len()
}

// withFewColors returns a picture with its most frequent colours, or those that are nearest.
func withFewColors(picture image.Image, n int) image.Image {
	count := make(map[color.Color]int)
	size := picture.Bounds()
	for y := range size.Dy() {
		for x := range size.Dx() {
			count[picture.At(x, y)]++
		}
	}
	colors := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	few := image.NewPaletted(size, colors[:min(n, len(colors))])
	nearest := make(map[color.Color]uint8)
	for c := range count {
		nearest[c] = uint8(few.Palette.Index(c))
	}
	for y := range size.Dy() {
		for x := range size.Dx() {
			few.SetColorIndex(x, y, nearest[picture.At(x, y)])
		}
	}
	return few
}
