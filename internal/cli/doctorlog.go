package cli

import (
	"maps"
	"slices"
	"strings"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/intercom"
)

// accessLogger is the name of the logger of access logs.
const accessLogger = "http.log.access"

// checkAccessLog looks whether an access log shows signatures.
func (c *config) checkAccessLog(f *findings, e endpointConfig) {
	logs := c.Logging.Logs
	if _, configured := logs["default"]; !configured { // it is there nevertheless
		logs = maps.Clone(logs)
		if logs == nil {
			logs = make(map[string]logConfig)
		}
		logs["default"] = logConfig{}
	}
	check := "access log of " + e.place
	for _, logger := range e.accessLoggers() {
		for _, name := range slices.Sorted(maps.Keys(logs)) {
			if log := logs[name]; log.takes(logger) && !log.hides(intercom.HubSignature) {
				f.warn(check, "the log "+name+" shows "+intercom.HubSignature, "whoever has it and the body can send the notification again from an allowed address",
					"delete request>headers>"+intercom.HubSignature+" with `format filter`, as in docs/security.md")
				return
			}
		}
	}
	f.ok(check, "no access log shows %s", intercom.HubSignature)
}

// accessLoggers returns the names of the loggers that the access log of the endpoint goes to.
func (e endpointConfig) accessLoggers() []string {
	logs := e.server.Logs
	if logs == nil {
		return nil
	}
	var names []string
	unmapped := len(e.hosts) == 0
	hosts := e.hosts
	if unmapped {
		hosts = slices.Sorted(maps.Keys(logs.LoggerNames))
	}
	for _, host := range hosts {
		of, mapped := logs.LoggerNames[host]
		names = append(names, of...)
		unmapped = unmapped || !mapped
	}
	if unmapped && !logs.SkipUnmappedHosts {
		names = append(names, logs.DefaultLoggerName)
	}
	for i, name := range names {
		names[i] = strings.TrimSuffix(accessLogger+"."+name, ".")
	}
	return names
}

// takes reports whether the log has the entries of a logger.
func (l logConfig) takes(logger string) bool {
	within := func(name string) bool { return logger == name || strings.HasPrefix(logger, name+".") }
	return (len(l.Include) == 0 || slices.ContainsFunc(l.Include, within)) && !slices.ContainsFunc(l.Exclude, within)
}

// hides reports whether the log leaves out a header of the request.
func (l logConfig) hides(header string) bool {
	for field := range l.Encoder.Fields {
		if field == "request" || field == "request>headers" || strings.EqualFold(field, "request>headers>"+header) {
			return true
		}
	}
	return false
}
