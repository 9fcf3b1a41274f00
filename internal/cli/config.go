package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/lanename"
)

// config is what the commands need of a config of Caddy. It is only decoded: nothing of it
// is started.
type config struct {
	Admin struct {
		Disabled bool   `json:"disabled"`
		Listen   string `json:"listen"`
	} `json:"admin"`
	Logging struct {
		Logs map[string]logConfig `json:"logs"`
	} `json:"logging"`
	Apps struct {
		HTTP struct {
			Servers map[string]*serverConfig `json:"servers"`
		} `json:"http"`
	} `json:"apps"`

	raw       []byte
	endpoints []endpointConfig
	uis       []queueUI
}

type logConfig struct {
	Encoder struct {
		Format string                     `json:"format"`
		Fields map[string]json.RawMessage `json:"fields"`
	} `json:"encoder"`
	Include []string `json:"include"`
	Exclude []string `json:"exclude"`
}

type serverConfig struct {
	TrustedProxies       json.RawMessage `json:"trusted_proxies"`
	TrustedProxiesUnix   bool            `json:"trusted_proxies_unix"`
	TrustedProxiesStrict int             `json:"trusted_proxies_strict"`
	Routes               any             `json:"routes"`
	Logs                 *struct {
		DefaultLoggerName string              `json:"default_logger_name"`
		LoggerNames       map[string][]string `json:"logger_names"`
		SkipUnmappedHosts bool                `json:"skip_unmapped_hosts"`
	} `json:"logs"`
}

// endpointConfig is an intercom_webhook handler of a config.
type endpointConfig struct {
	Secrets []string `json:"client_secrets"`
	Allow   []struct {
		Source  string   `json:"source"`
		Regions []string `json:"regions"`
		URL     string   `json:"url"`
	} `json:"allow"`
	Timeout caddy.Duration  `json:"timeout"`
	Routes  []topicRoute    `json:"routes"`
	Copies  []topicRoute    `json:"copies"`
	Queue   json.RawMessage `json:"queue"`

	place  string   // for people: where it is in the config
	hosts  []string // that its routes want; none: all
	server *serverConfig
}

// queueUI is an intercom_queue_ui handler of a config.
type queueUI struct {
	Unauthenticated bool `json:"unauthenticated"`

	place string
}

// topicRoute is a route for notifications, or a copy.
type topicRoute struct {
	Lane   string                       `json:"lane"`
	Match  []map[string]json.RawMessage `json:"match"`
	Sample float64                      `json:"sample"` // of a copy, in percent; 0: all
}

// readConfig reads a config file, as Caddy does.
func readConfig(file, adapter string) (*config, error) {
	adapted, _, _, err := caddycmd.LoadConfig(file, adapter)
	if err != nil {
		return nil, err
	}
	c := &config{raw: adapted}
	if err := json.Unmarshal(adapted, c); err != nil {
		return nil, fmt.Errorf("decoding config: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Apps.HTTP.Servers)) {
		server := c.Apps.HTTP.Servers[name]
		if server == nil {
			continue
		}
		if err := c.collect(server, server.Routes, nil, name); err != nil {
			return nil, fmt.Errorf("decoding config: %w", err)
		}
	}
	return c, nil
}

// collect finds the handlers of this module in a part of a server's config. The place has the
// hosts and paths of the routes above it.
func (c *config) collect(server *serverConfig, part any, place []string, name string) error {
	switch part := part.(type) {
	case []any:
		for _, element := range part {
			if err := c.collect(server, element, place, name); err != nil {
				return err
			}
		}
	case map[string]any:
		handler, _ := part["handler"].(string)
		where := cmp.Or(strings.Join(place, " "), "server "+name)
		switch handler {
		case "intercom_webhook":
			e := endpointConfig{place: where, server: server}
			e.hosts = slices.DeleteFunc(slices.Clone(place), func(text string) bool { return strings.Contains(text, "/") })
			if err := decodeInto(part, &e); err != nil {
				return err
			}
			nameLanes(e.Routes, "")
			nameLanes(e.Copies, lanename.CopyPrefix)
			c.endpoints = append(c.endpoints, e)
		case "intercom_queue_ui":
			ui := queueUI{place: where}
			if err := decodeInto(part, &ui); err != nil {
				return err
			}
			c.uis = append(c.uis, ui)
		}
		place = append(slices.Clone(place), hostsAndPaths(part["match"])...)
		for _, key := range slices.Sorted(maps.Keys(part)) {
			if err := c.collect(server, part[key], place, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func decodeInto(part map[string]any, to any) error {
	encoded, err := json.Marshal(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(encoded, to)
}

// hostsAndPaths returns the hosts and paths that the matchers of a route want.
func hostsAndPaths(match any) []string {
	var found []string
	sets, _ := match.([]any)
	for _, set := range sets {
		matchers, _ := set.(map[string]any)
		for _, matcher := range []string{"host", "path"} {
			values, _ := matchers[matcher].([]any)
			for _, value := range values {
				if text, ok := value.(string); ok {
					found = append(found, text)
				}
			}
		}
	}
	return found
}

// nameLanes gives a lane to each route that has none, as the handler does.
func nameLanes(routes []topicRoute, prefix string) {
	var taken []string
	for i := range routes {
		r := &routes[i]
		if r.Lane == "" {
			r.Lane = lanename.Default(prefix, r.patterns())
			if slices.Contains(taken, r.Lane) {
				r.Lane = fmt.Sprintf("%s-%d", r.Lane, i)
			}
		}
		taken = append(taken, r.Lane)
	}
}

// patterns returns the topic patterns of the route, in their order.
func (r topicRoute) patterns() []string {
	var all []string
	for _, set := range r.Match {
		all = append(all, patternsIn(set)...)
	}
	return all
}

func patternsIn(set map[string]json.RawMessage) []string { return listIn(set, "intercom_topic") }

// listIn returns the values of a matcher that is a list.
func listIn(set map[string]json.RawMessage, matcher string) []string {
	var list []string
	_ = json.Unmarshal(set[matcher], &list) // absent, or refused when it is loaded
	return list
}

var errNoEndpoint = errors.New("the config has no intercom_webhook: name the config that Caddy runs with")
