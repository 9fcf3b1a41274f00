// Command caddy is stock Caddy with the intercom_webhook module built in.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-intercom/caddy-intercom-webhook"
	_ "github.com/caddy-intercom/caddy-intercom-webhook/queue"
)

func main() {
	caddycmd.Main()
}
