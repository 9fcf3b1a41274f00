package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-intercom/caddy-intercom-webhook/queue/internal/db"
)

// heartbeatTimeout bounds a heartbeat, so that one that hangs is known to be late.
const heartbeatTimeout = 5 * time.Second

// An instance is gone when its heartbeat is older than 30 s by the database's clock, which
// may step forward, and so may that of a whole server that stood still. Then the heartbeat
// before an instance's own looks old, too. So an instance judges others only when its own
// heartbeats have been steady for long enough that all live ones have had theirs.
const (
	goneAfter = `interval '30 seconds'` // db.GoneAfter
	isSteady  = `EXISTS (SELECT FROM {s}instance WHERE id = $1::text
		AND beat_at > now() - interval '10 seconds' AND beat_at <= now() AND steady_since <= now() - interval '15 seconds')`

	heartbeatSQL = `
		INSERT INTO {s}instance AS i (id, version, lanes, configs) VALUES ($1::text, $2::text, $3::text, $4::text)
		ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version, lanes = EXCLUDED.lanes, configs = EXCLUDED.configs, beat_at = now(),
			steady_since = CASE WHEN now() - i.beat_at BETWEEN interval '0' AND interval '10 seconds' THEN i.steady_since ELSE now() END`

	// Until an instance may judge others, it takes all of them to be live.
	peersSQL = `
		SELECT now(), i.id, i.version, i.lanes, i.configs FROM (VALUES (1)) AS always
		LEFT JOIN {s}instance AS i ON i.id <> $1::text AND i.lanes IS NOT NULL AND (i.beat_at >= now() - ` + goneAfter + ` OR NOT ` + isSteady + `)
		ORDER BY i.id`

	// Instances without a row have closed the database.
	takeOverSQL = `
		UPDATE {s}delivery SET ` + released + `
		WHERE id = ANY (ARRAY(
			SELECT id FROM {s}delivery AS d
			WHERE state = 'delivering' AND instance <> $1::text AND ` + isSteady + `
				AND NOT EXISTS (SELECT FROM {s}instance AS i WHERE i.id = d.instance AND i.beat_at >= now() - ` + goneAfter + `)
			ORDER BY id FOR UPDATE SKIP LOCKED
		))
		RETURNING id`

	forgetSQL = `DELETE FROM {s}instance WHERE id <> $1::text AND beat_at < now() - interval '1 day' AND ` + isSteady
)

// newInstance returns a name for this process: the host's name and a random number.
func newInstance() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	suffix := "-" + strconv.FormatUint(uint64(rand.Uint32()), 36) //nolint:gosec // a name, not a secret
	return strings.ToValidUTF8(host[:min(len(host), 80)], "") + suffix
}

// peers implements the part of db.DB that other instances see.
type peers struct{ *client }

// Instance implements db.DB.
func (p peers) Instance() string { return p.instance }

// Heartbeat implements db.DB.
func (p peers) Heartbeat(ctx context.Context, self db.Presence) (known db.Peers, err error) {
	ctx, cancel := context.WithTimeout(ctx, heartbeatTimeout)
	defer cancel()
	lanes, configs, err := encodePresence(self)
	if err != nil {
		return db.Peers{}, fmt.Errorf("heartbeat: %w", err)
	}
	err = p.run(ctx, durably,
		statement{sql: heartbeatSQL, args: []any{p.instance, db.EncodeText(self.Version), lanes, configs}},
		statement{sql: peersSQL, args: []any{p.instance}, scan: func(rows pgx.Rows) error {
			known = db.Peers{}
			var id, version, lanes, configs *string
			_, err := pgx.ForEachRow(rows, []any{&known.Now, &id, &version, &lanes, &configs}, func() error {
				if id != nil {
					known.Others = append(known.Others, decodePresence(*id, version, lanes, configs))
				}
				return nil
			})
			known.Now = known.Now.UTC()
			return err
		}})
	if err != nil {
		return db.Peers{}, fmt.Errorf("heartbeat: %w", err)
	}
	return known, nil
}

// encodePresence encodes what an instance works on as JSON, which is plain text.
func encodePresence(p db.Presence) (lanes, configs string, err error) {
	encodedLanes, err := json.Marshal(append([]db.Lane{}, p.Lanes...))
	if err != nil {
		return "", "", err
	}
	encodedConfigs, err := json.Marshal(p.Configs)
	return string(encodedLanes), string(encodedConfigs), err
}

// decodePresence leaves out what is not of this program's making.
func decodePresence(id string, version, lanes, configs *string) db.Presence {
	p := db.Presence{Instance: id, Version: decodeNull(version)}
	if lanes != nil {
		_ = json.Unmarshal([]byte(*lanes), &p.Lanes)
	}
	if configs != nil {
		_ = json.Unmarshal([]byte(*configs), &p.Configs)
	}
	return p
}

// TakeOver implements db.DB.
func (p peers) TakeOver(ctx context.Context) (int64, error) {
	ids, err := p.ids(ctx, plainly, statement{sql: forgetSQL, args: []any{p.instance}}, statement{sql: takeOverSQL, args: []any{p.instance}})
	if err != nil {
		return 0, fmt.Errorf("releasing deliveries of instances that are gone: %w", err)
	}
	return int64(len(ids)), nil
}

// Close implements db.DB.
func (p peers) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := p.run(ctx, plainly, statement{sql: `DELETE FROM {s}instance WHERE id = $1::text`, args: []any{p.instance}})
	p.pool.Close()
	if err != nil {
		return fmt.Errorf("telling other instances that this one is gone: %w", err)
	}
	return nil
}
