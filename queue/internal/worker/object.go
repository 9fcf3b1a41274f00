package worker

import (
	"strings"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
)

// maxObject is the longest object that is stored, in bytes.
const maxObject = 200

// about says which fields tell what a notification is about.
var about = newAbout()

type aboutFields struct {
	fields.Plan
	kind, id, conversation int
}

func newAbout() *aboutFields {
	a := new(aboutFields)
	a.kind, a.id, a.conversation = a.Want("data.item.type"), a.Want("data.item.id"), a.Want("conversation_id")
	return a
}

// object returns what a notification is about, as in conversation:123; empty if it does not
// say. An event of the Fin Agent API is about a conversation, of which it has the customer's
// own id.
func (a *aboutFields) object(topic string, body []byte) string {
	values, err := a.Read(body)
	if err != nil { // the same key twice: nobody knows which one counts
		return ""
	}
	kind, id := values.Text(a.kind), values.Text(a.id)
	if strings.HasPrefix(topic, "fin.") {
		kind, id = "fin", values.Text(a.conversation)
	}
	if kind == "" || id == "" || len(kind)+len(id) >= maxObject {
		return ""
	}
	return kind + ":" + id
}
