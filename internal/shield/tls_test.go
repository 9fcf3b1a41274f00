package shield

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// sign makes a certificate. Without an authority, it signs itself.
func sign(t *testing.T, template *x509.Certificate, authority *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if authority == nil {
		authority = &tls.Certificate{Leaf: template, PrivateKey: key}
	}
	template.SerialNumber = big.NewInt(1)
	signed, err := x509.CreateCertificate(rand.Reader, template, authority.Leaf, key.Public(), authority.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(signed)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key, Leaf: leaf}
}

func TestFailedHandshakesAreToldApart(t *testing.T) {
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	authority := sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "private words"}, NotBefore: past, NotAfter: future,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	serving := func(name string, from, until time.Time, change func(*tls.Config)) func(net.Conn) {
		config := &tls.Config{Certificates: []tls.Certificate{sign(t, &x509.Certificate{
			Subject: pkix.Name{CommonName: "private words"}, DNSNames: []string{name}, NotBefore: from, NotAfter: until,
		}, &authority)}}
		change(config)
		return func(conn net.Conn) {
			secure := tls.Server(conn, config)
			_, _ = http.ReadRequest(bufio.NewReader(secure))
			_ = secure.Close()
		}
	}
	saying := func(text string) func(net.Conn) {
		return func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 4<<10))
			_, _ = io.WriteString(conn, text)
		}
	}
	const failed = "TLS handshake with the backend failed: "
	for name, tc := range map[string]struct {
		serve     func(net.Conn)
		untrusted bool
		want      string
	}{
		"certificate of a stranger": {
			serve: serving("backend", past, future, func(*tls.Config) {}), untrusted: true,
			want: failed + "its certificate is from an authority that is not trusted here; if that is meant, set tls_trust_pool",
		},
		"certificate for another name": {
			serve: serving("private-words", past, future, func(*tls.Config) {}),
			want:  failed + "its certificate is for another name; if that is meant, set tls_server_name",
		},
		"certificate that has expired": {
			serve: serving("backend", time.Unix(0, 0), time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC), func(*tls.Config) {}),
			want:  failed + "its certificate has expired at 2020-01-02T03:04:05Z",
		},
		"certificate of the future": {
			serve: serving("backend", time.Date(2226, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2227, 1, 2, 0, 0, 0, 0, time.UTC), func(*tls.Config) {}),
			want:  failed + "its certificate is not valid before 2226-01-02T03:04:05Z",
		},
		"HTTP": {
			serve: saying("HTTP/1.1 400 private words\r\n\r\n"),
			want:  failed + "the backend does not speak TLS on this port",
		},
		"SSH": {
			serve: saying("SSH-2.0-private words\r\n"),
			want:  failed + "the backend does not speak TLS on this port",
		},
		"an old version": {
			serve: serving("backend", past, future, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11 }),
			want:  failed + `the backend refused it with the alert "tls: protocol version not supported"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				if conn, err := listener.Accept(); err == nil {
					tc.serve(conn)
					conn.Close()
				}
			}()
			config := &tls.Config{ServerName: "backend", RootCAs: x509.NewCertPool()}
			if !tc.untrusted {
				config.RootCAs.AddCert(authority.Leaf)
			}
			transport := &http.Transport{TLSClientConfig: config}
			defer transport.CloseIdleConnections()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+listener.Addr().String(), http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := transport.RoundTrip(r)
			if err == nil {
				answer.Body.Close()
				t.Fatal("there was an answer")
			}
			if got := safeError(caddyhttp.Error(http.StatusBadGateway, err)).Error(); got != tc.want {
				t.Errorf("of %q it is told %q, want %q", err, got, tc.want)
			}
		})
	}
}
