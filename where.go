package intercomwebhook

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-intercom/caddy-intercom-webhook/internal/fields"
)

// MatchField matches verified requests by the fields of their signed body. It takes one or more
// conditions, at most 32, and all must hold. A condition has one of these forms:
//
// Condition | Holds if the field
// ----------|-------------------
// `<field>=<value>[\|<value>...]` | has one of the values
// `<field>!=<value>[\|<value>...]` | has none of the values, or is missing or null
// `<field>` | is there, and not null
//
// A field is a path of names from the top of the body, joined by dots, such as
// `data.item.state`. Capitals count. A number is the index of an element of an array, from 0,
// or a name. A `*` is any element of an array or object: `=` holds if one element fits, and `!=`
// if none has the value. Values are compared as text: of a string its characters, of a number
// or a boolean its JSON. An object or an array has no text.
//
// A request in which a name on the way to such a field stands twice in one object, in any
// capitalisation, is refused with 400, because parsers differ on which one counts.
//
// It does not match requests that have not passed an `intercom_webhook` handler.
type MatchField []string

// CaddyModule returns the Caddy module information.
func (*MatchField) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.matchers.intercom_field",
		New: func() caddy.Module { return new(MatchField) },
	}
}

// Provision adds the conditions to what the handlers of the config read from a body.
func (m *MatchField) Provision(ctx caddy.Context) error {
	plan, err := loadFields(ctx)
	if err != nil {
		return err
	}
	for _, condition := range *m {
		if err := plan.Require(condition); err != nil {
			return err
		}
	}
	return nil
}

// Validate refuses no conditions, and too many of them.
func (m *MatchField) Validate() error {
	switch {
	case len(*m) == 0:
		return errNoCondition
	case len(*m) > fields.MaxConditions:
		return errTooManyConditions
	}
	return nil
}

var (
	errNoCondition       = errors.New("the condition is missing; give one as in data.item.state=open")
	errTooManyConditions = fmt.Errorf("over %d conditions are given; several values of a field are one condition, as in data.item.state=open|snoozed", fields.MaxConditions)
)

// MatchWithError reports whether the request is a verified one of which all conditions hold.
func (m *MatchField) MatchWithError(r *http.Request) (bool, error) {
	t, ok := caddyhttp.GetVar(r.Context(), tagVar).(*tag)
	return ok && !slices.ContainsFunc(*m, func(condition string) bool { return !t.fields.Holds(condition) }), nil
}

// UnmarshalCaddyfile sets up the matcher from Caddyfile tokens. Syntax:
//
//	intercom_field <conditions...>
func (m *MatchField) UnmarshalCaddyfile(d *caddyfile.Dispenser) (err error) {
	if *m, err = parseList(d, *m, "condition", fields.CheckCondition); err != nil {
		return err
	}
	if err := m.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// fieldsApp has the fields that the config needs of a body, so that one walk finds all of them.
// Matchers and handlers load it; it has no config of its own.
type fieldsApp struct{ plan fields.Plan }

const fieldsAppID = "intercom_webhook_fields"

// CaddyModule returns the Caddy module information.
func (*fieldsApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  fieldsAppID,
		New: func() caddy.Module { return new(fieldsApp) },
	}
}

// Start implements caddy.App.
func (*fieldsApp) Start() error { return nil }

// Stop implements caddy.App.
func (*fieldsApp) Stop() error { return nil }

// loadFields returns the fields of the config that is being loaded.
func loadFields(ctx caddy.Context) (*fields.Plan, error) {
	loaded, err := ctx.App(fieldsAppID)
	if err != nil {
		return nil, err
	}
	return &loaded.(*fieldsApp).plan, nil
}

// Interface guards
var (
	_ caddy.Provisioner                 = (*MatchField)(nil)
	_ caddy.Validator                   = (*MatchField)(nil)
	_ caddyhttp.RequestMatcherWithError = (*MatchField)(nil)
	_ caddyfile.Unmarshaler             = (*MatchField)(nil)
	_ caddy.App                         = (*fieldsApp)(nil)
)
