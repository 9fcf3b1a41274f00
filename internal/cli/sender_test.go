package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// What is wrong with a certificate, and what to do, is told apart.
func TestExplainTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for name, c := range map[string]struct {
		from, until time.Time
		name        string
		trusted     bool
		what, do    string
	}{
		"expired":       {now.Add(-2 * time.Hour), now.Add(-time.Hour), "localhost", true, "the certificate has expired at 2", "why it is not renewed"},
		"of the future": {now.Add(time.Hour), now.Add(2 * time.Hour), "localhost", true, "the certificate is not valid before 2", "compare the clocks"},
		"another name":  {now.Add(-time.Hour), now.Add(time.Hour), "hooks.example.com", true, "the certificate is for hooks.example.com, not for localhost", "give the site this name"},
		"not trusted":   {now.Add(-time.Hour), now.Add(time.Hour), "localhost", false, "of nobody whom this machine trusts", "caddy trust"},
		"none":          {now, now, "", false, "it has no certificate for this name", "give the site this name"},
		"no TLS":        {now, now, "plain", false, "does not speak TLS at this port", "use http://"},
	} {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: c.from, NotAfter: c.until, DNSNames: []string{c.name}, IsCA: true, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(answering(http.StatusOK, ""))
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		roots := x509.NewCertPool()
		if parsed, err := x509.ParseCertificate(der); err == nil && c.trusted {
			roots.AddCert(parsed)
		}
		if c.name == "" {
			server.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("none") }
		}
		if c.name == "plain" {
			server.Start()
		} else {
			server.StartTLS()
		}
		client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
		_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
		_, err = client.Get("https://localhost:" + port)
		if err == nil {
			t.Fatalf("%s: no error", name)
		}
		if what, do := explainTLS(err); !strings.Contains(what, c.what) || !strings.Contains(do, c.do) {
			t.Errorf("%s: %v is explained as %q, %q", name, err, what, do)
		}
		server.Close()
	}
	if what, do := explainTLS(errors.New("x")); what != "" || do != "" {
		t.Errorf("another error is explained as %q, %q", what, do)
	}
}
