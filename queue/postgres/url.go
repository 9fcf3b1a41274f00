package postgres

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	minConnections     = 3 // below that, storing or a heartbeat could wait for a long statement
	defaultConnections = 8
)

// The grammar of a URL. It is stricter than that of net/url, which takes parts of an
// unescaped password for the host or the database.
const (
	urlUser   = `(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*`
	urlHost   = `(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?`
	urlHosts  = urlHost + `(?:,` + urlHost + `)*`
	urlName   = `(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+`
	urlParams = `[a-z_]+=(?:[A-Za-z0-9._~/,:*+-]|%[0-9A-Fa-f]{2})*`
)

var (
	urlPattern = regexp.MustCompile(`^postgres(?:ql)?://(?:` + urlUser + `@)?(` + urlHosts + `)?/(` + urlName + `)(?:\?(` + urlParams + `(?:&` + urlParams + `)*))?$`)

	// urlNoDatabase is a URL that is well-formed but for its database.
	urlNoDatabase = regexp.MustCompile(`^postgres(?:ql)?://(?:` + urlUser + `@)?(?:` + urlHosts + `)?/?(?:\?[^@]*)?$`)

	socketPattern = regexp.MustCompile(`^/[A-Za-z0-9._/-]*$`)

	errURL = errors.New("the PostgreSQL URL is malformed: it has the form postgres://user:password@host:5432/database, " +
		"in which all characters of user, password and database but letters, digits, - . _ and ~ are percent-encoded")
	errNoDatabase = errors.New("the PostgreSQL URL names no database: it has the form postgres://user:password@host:5432/database")
	errNoHost     = errors.New("the PostgreSQL URL names no host: put it before the database, or the folder of a Unix socket into ?host=/var/run/postgresql")
	errConns      = fmt.Errorf("pool_max_conns in the PostgreSQL URL is less than %d, which is what the queue needs", minConnections)
)

// urlParameters are the parameters that a URL may have, each with the one that it needs to be
// valid, or "".
var urlParameters = map[string]string{
	"application_name": "", "channel_binding": "", "connect_timeout": "", "host": "", "krbspn": "", "krbsrvname": "", "max_protocol_version": "",
	"min_protocol_version": "", "options": "", "pool_max_conn_idle_time": "", "pool_max_conn_lifetime": "", "pool_max_conns": "", "require_auth": "",
	"sslcert": "sslkey", "sslkey": "sslcert", "sslmode": "", "sslnegotiation": "", "sslpassword": "", "sslrootcert": "sslmode", "sslsni": "",
	"target_session_attrs": "",
}

// parseURL reads a URL. The name says where the database is, for logs and errors. It and the
// errors have no other part of the URL than hosts, ports and database.
func parseURL(text string) (config *pgxpool.Config, name string, err error) {
	parts := urlPattern.FindStringSubmatch(text)
	if parts == nil {
		if urlNoDatabase.MatchString(text) {
			return nil, "", errNoDatabase
		}
		return nil, "", errURL
	}
	hosts, database := parts[1], parts[2]
	params, err := url.ParseQuery(parts[3])
	if err != nil {
		return nil, "", errURL
	}
	for _, key := range slices.Sorted(maps.Keys(params)) {
		if err := checkParameter(key, params); err != nil {
			return nil, "", err
		}
	}
	switch socket := params.Get("host"); {
	case hosts == "" && socketPattern.MatchString(socket):
		hosts = socket
	case socket != "":
		return nil, "", errURL
	case hosts == "":
		return nil, "", errNoHost
	}
	config, err = pgxpool.ParseConfig(text)
	if err != nil || config.ConnConfig.Database == "" {
		return nil, "", errURL
	}
	if !params.Has("pool_max_conns") {
		config.MaxConns = defaultConnections
	}
	if config.MaxConns < minConnections {
		return nil, "", errConns
	}
	config.PingTimeout = pingTimeout
	conn := config.ConnConfig
	if !params.Has("connect_timeout") {
		conn.ConnectTimeout = 5 * time.Second
	}
	if conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = "caddy-intercom-webhook"
	}
	conn.RuntimeParams["client_encoding"] = "UTF8"
	// PgBouncer gives each transaction another session, so no statement may be kept in one
	conn.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	several := slices.ContainsFunc(conn.Fallbacks, func(other *pgconn.FallbackConfig) bool { // there may be several ways to connect to one host
		return other.Host != conn.Host || other.Port != conn.Port
	})
	if several && !params.Has("target_session_attrs") {
		conn.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	return config, "PostgreSQL at " + hosts + ", database " + database, nil
}

// checkParameter names a parameter that is not valid, and never its value.
func checkParameter(key string, params url.Values) error {
	needs, known := urlParameters[key]
	if !known || len(params[key]) != 1 {
		return fmt.Errorf("the PostgreSQL URL has a parameter that is unknown or given twice: known are %s", strings.Join(slices.Sorted(maps.Keys(urlParameters)), ", "))
	}
	alone := url.Values{key: params[key]}
	if params.Has(needs) {
		alone[needs] = params[needs]
	}
	if _, err := pgxpool.ParseConfig("postgres://localhost/postgres?" + alone.Encode()); err != nil {
		return fmt.Errorf("the parameter %s of the PostgreSQL URL is not valid: if it names a file, does that exist, and may this program read it?", key)
	}
	return nil
}

var (
	placeholder     = regexp.MustCompile(`\{[^{}]*\}`)
	passwordPattern = regexp.MustCompile(`^[a-z]+://[^:@/]*:[^@]+@|[?&](?:ssl)?password=[^&]`)
)

// isExposed reports whether a way to connect leaves this machine without encryption, as with
// the default sslmode=prefer.
func isExposed(text string) bool {
	config, _, err := parseURL(text)
	if err != nil {
		return false
	}
	conn := config.ConnConfig
	ways := append([]*pgconn.FallbackConfig{{Host: conn.Host, TLSConfig: conn.TLSConfig}}, conn.Fallbacks...)
	return slices.ContainsFunc(ways, func(way *pgconn.FallbackConfig) bool {
		addr, err := netip.ParseAddr(way.Host)
		isLocal := strings.HasPrefix(way.Host, "/") || way.Host == "localhost" || err == nil && addr.IsLoopback()
		return way.TLSConfig == nil && !isLocal
	})
}

// hasPassword reports whether a URL has a password, or a part of it, in itself, and not in a placeholder.
func hasPassword(text string) bool {
	return passwordPattern.MatchString(placeholder.ReplaceAllString(text, ""))
}
