package ipranges

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func TestSettingOfIPRanges(t *testing.T) {
	all := [3]string{
		"https://static.intercomcdn.com/intercom-ips/us/intercom-ip-ranges.json",
		"https://static.intercomcdn.com/intercom-ips/eu/intercom-ip-ranges.json",
		"https://static.intercomcdn.com/intercom-ips/au/intercom-ip-ranges.json",
	}
	for _, tc := range []struct {
		name, json string
		want       setting
		err        string
	}{
		{name: "nothing is set", json: `{}`, want: setting{all, time.Hour, 10 * time.Second}},
		{name: "some regions", json: `{"regions":["au","us"]}`, want: setting{[3]string{all[0], "", all[2]}, time.Hour, 10 * time.Second}},
		{name: "everything is set", json: `{"regions":["eu"],"refresh":"30m","url":"http://mirror/{region}.json?r={region}","timeout":"1s"}`,
			want: setting{[3]string{"", "http://mirror/eu.json?r=eu", ""}, 30 * time.Minute, time.Second}},
		{name: "never", json: `{"refresh":0}`, want: setting{all, 0, 10 * time.Second}},
		{name: "one region, one URL", json: `{"regions":["eu"],"url":"https://mirror/list"}`,
			want: setting{[3]string{"", "https://mirror/list", ""}, time.Hour, 10 * time.Second}},

		{name: "unknown region", json: `{"regions":["us","uk"]}`, err: `region "uk" is not a region of Intercom: the regions are us, eu, au`},
		{name: "region twice", json: `{"regions":["us","us"]}`, err: "region us is given twice"},
		{name: "negative refresh", json: `{"refresh":"-1s"}`, err: `refresh must be from 1ms to 1 year, as in "10s", and not -1s; 0 is never`},
		{name: "negative timeout", json: `{"timeout":"-1s"}`, err: `timeout must be from 1ms to 1 year, as in "10s", and not -1s`},
		{name: "seconds as a number", json: `{"refresh":3600}`, err: `refresh must be from 1ms to 1 year, as in "10s", and not 3.6µs`},
		{name: "hardly ever", json: `{"refresh":"106000d"}`, err: "refresh must be from 1ms to 1 year"},
		{name: "no URL", json: `{"url":"mirror/{region}"}`, err: "url is not an http or https URL such as https://"},
		{name: "URL without a host", json: `{"url":"https:///{region}"}`, err: "url is not an http or https URL such as https://"},
		{name: "URL with a port only", json: `{"url":"https://:443/{region}"}`, err: "url is not an http or https URL such as https://"},
		{name: "URL with a fragment", json: `{"url":"https://mirror/#{region}"}`, err: "url is not an http or https URL such as https://"},
		{name: "another scheme", json: `{"url":"file:///etc/{region}"}`, err: "url is not an http or https URL such as https://"},
		{name: "malformed URL", json: `{"url":"https://user:s3cret@mirror:port/{region}"}`, err: "url is not an http or https URL such as https://"},
		{name: "another placeholder", json: `{"url":"https://mirror/{env.PATH}/{region}"}`, err: "url has a placeholder other than {region}"},
		{name: "one URL for all regions", json: `{"url":"https://mirror/list"}`, err: "url is the same for all regions"},
		{name: "one URL for two regions", json: `{"regions":["us","au"],"url":"https://mirror/list"}`, err: "url is the same for all regions"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			source := new(Source)
			if err := json.Unmarshal([]byte(tc.json), source); err != nil {
				t.Fatal(err)
			}
			got, err := source.setting()
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "s3cret") {
					t.Errorf("error %v, want %q", err, tc.err)
				}
			} else if err != nil || got != tc.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
}

// A module that is loaded when the config is being started already, as apps may do.
func TestIPRangesThatAreProvisionedLateAreRefreshed(t *testing.T) {
	asked := make(chan struct{}, 1)
	feed := listServer(t, func(http.ResponseWriter, *http.Request) { asked <- struct{}{} })
	ctx, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		t.Fatal(err)
	}
	events, err := ctx.App("events")
	if err != nil {
		t.Fatal(err)
	}
	if err := events.(caddy.App).Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(ctx)
	defer cancel()
	if _, err := ctx.LoadModuleByID("http.ip_sources.intercom", []byte(`{"regions":["us"],"url":"`+feed.url+`"}`)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Error("nobody was asked")
	}
}

// What Caddy does when it validates a config, or gives up one that does not load.
func TestProvisionedIPRangesAskNobodyAndAreReleased(t *testing.T) {
	var asked atomic.Int32
	feed := listServer(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	want := setting{[3]string{feed.url}, time.Hour, 10 * time.Second}

	ctx, err := caddy.ProvisionContext(new(caddy.Config))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := caddy.NewContext(ctx)
	load := func(config string) (*Source, error) {
		module, err := ctx.LoadModuleByID("http.ip_sources.intercom", []byte(config))
		if err != nil {
			return nil, err
		}
		return module.(*Source), nil
	}
	for users := range 2 {
		source, err := load(`{"regions":["us"],"url":"` + feed.url + `"}`)
		if err != nil {
			t.Fatal(err)
		}
		if got := source.GetIPRanges(nil); !slices.Equal(got, compiledInList("us").Ranges) {
			t.Errorf("serves %v", got)
		}
		if _, err := load(`{"regions":["us"],"url":"` + feed.url + `","timeout":"-1s"}`); err == nil {
			t.Error("a negative timeout was loaded")
		}
		if refs, _ := refreshers.References(want); refs != users+1 {
			t.Errorf("%d users, want %d", refs, users+1)
		}
	}
	cancel()
	if _, ok := refreshers.References(want); ok {
		t.Error("the list is not released")
	}
	if asked.Load() != 0 {
		t.Errorf("%d requests", asked.Load())
	}
}
