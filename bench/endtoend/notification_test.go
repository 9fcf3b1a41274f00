package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"
)

func TestRequest(t *testing.T) {
	sent := time.Now()
	id := newID(sent, 42)
	request, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(appendRequest(nil, "/", usualWorkspace, id))))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(request.Body)
	if err != nil || len(body) != bodySize {
		t.Errorf("the body has %d bytes (%v), want %d", len(body), err, bodySize)
	}
	var envelope struct{ ID string }
	if err := json.Unmarshal(body, &envelope); err != nil || envelope.ID != id {
		t.Errorf("the body has the id %q (%v), want %q", envelope.ID, err, id)
	}
	if at, ok := sentAt(envelope.ID); !ok || !at.Equal(sent) {
		t.Errorf("the id says %s, want %s", at, sent)
	}
}

func TestIDOfAnother(t *testing.T) {
	for _, id := range []string{"", "notif_", "notif_12", "notif_x_1", "12_1"} {
		if _, ok := sentAt(id); ok {
			t.Errorf("%q tells when it was sent", id)
		}
	}
}
