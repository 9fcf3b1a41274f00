package intercom

import (
	"cmp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// TopicPing is the topic of the notification that Intercom sends to test an endpoint.
const TopicPing = "ping"

// Topic is what is known about a topic.
type Topic struct {
	Name   string `json:"topic"`
	Object string `json:"object"`          // what its notifications carry, as the docs call it
	Since  string `json:"since,omitempty"` // the first version of the API that has it; empty if no docs say so
	Until  string `json:"until,omitempty"` // the last version of the API that has it; empty if the newest one does
	Note   string `json:"note,omitempty"`  // what is unusual about it; empty if nothing is

	sample string // of the object (samples/<name>.json)
}

// Catalogue returns every known topic, sorted by name.
func Catalogue() []Topic { return slices.Clone(catalogue) }

// Topics returns the name of every known topic, sorted.
func Topics() []string {
	names := make([]string, len(catalogue))
	for i, topic := range catalogue {
		names[i] = topic.Name
	}
	return names
}

// IsKnown reports whether Intercom is known to send notifications of the topic.
func IsKnown(topic string) bool {
	_, known := find(topic)
	return known
}

// Label returns the topic if it is a known one, or else "other". Senders can choose any
// topic, and metrics must not get a new series for each.
func Label(topic string) string {
	if IsKnown(topic) {
		return topic
	}
	return OtherTopics
}

// OtherTopics is the label that all unknown topics share.
const OtherTopics = "other"

func find(name string) (Topic, bool) {
	i, found := slices.BinarySearchFunc(catalogue, name, func(t Topic, name string) int { return strings.Compare(t.Name, name) })
	if !found {
		return Topic{}, false
	}
	return catalogue[i], true
}

// NearestTopics returns the n known topics whose spelling is nearest to name.
func NearestTopics(name string, n int) []string {
	return Nearest(name, Topics(), n)
}

// Nearest returns the n candidates whose spelling is nearest to name, nearest first and
// each once. It changes the order of candidates.
func Nearest(name string, candidates []string, n int) []string {
	slices.SortFunc(candidates, func(a, b string) int {
		return cmp.Or(
			cmp.Compare(levenshtein.ComputeDistance(name, a), levenshtein.ComputeDistance(name, b)),
			strings.Compare(a, b))
	})
	candidates = slices.Compact(candidates)
	return candidates[:min(n, len(candidates))]
}

// catalogue has every known topic, sorted by name.
//
// It has the topics that Intercom's docs list for the API versions 1.0 to 2.17 and
// Preview, and those of captured notifications ("real ones"). Where the two disagree about
// a name, it has both names. Where they disagree about the object, the sample has the
// shape of the captured one. A 1.x topic whose object was never captured has the sample
// of its successor.
//
// Intercom adds topics without notice, so this list must not decide whether a
// notification is accepted.
// Source: https://developers.intercom.com/docs/references/webhooks/webhook-models
var catalogue = []Topic{
	{Name: "admin.activity_log_event.created", Object: "Admin", Since: "2.10", sample: "admin_activity_log_event", Note: "docs: an admin; real ones: an object of type admin_activity_log_event"},
	{Name: "admin.added_to_workspace", Object: "Admin", Since: "2.5", sample: "admin"},
	{Name: "admin.away_mode_updated", Object: "Admin", Since: "2.5", sample: "admin", Note: "item.id is a number"},
	{Name: "admin.logged_in", Object: "Admin", Since: "2.6", sample: "admin", Note: "item.id is a number"},
	{Name: "admin.logged_out", Object: "Admin", Since: "2.6", sample: "admin"},
	{Name: "admin.removed_from_workspace", Object: "Admin", Since: "2.5", sample: "admin"},

	{Name: "api.request.completed", Object: "API Request", Since: "2.15", sample: "api_request", Note: "item has request_id instead of id"},

	{Name: "article.created", Object: "Article", Since: "2.5", sample: "article"},
	{Name: "article.deleted", Object: "Article", Since: "2.5", sample: "article", Note: "docs: identification only; real ones: the whole article"},
	{Name: "article.published", Object: "Article", Since: "2.5", sample: "article"},
	{Name: "article.unpublished", Object: "Article", Since: "2.5", sample: "article"},
	{Name: "article.updated", Object: "Article", Since: "2.5", sample: "article"},

	{Name: "audience.created", Object: "Audience", Since: "Preview", sample: "audience"},
	{Name: "audience.deleted", Object: "Audience", Since: "Preview", sample: "audience_deleted", Note: "identification only"},
	{Name: "audience.member_added", Object: "Audience Membership", Since: "Preview", sample: "audience_membership"},
	{Name: "audience.member_removed", Object: "Audience Membership", Since: "Preview", sample: "audience_membership"},
	{Name: "audience.updated", Object: "Audience", Since: "Preview", sample: "audience"},

	{Name: "call.ended", Object: "Call", Since: "2.14 or earlier", sample: "call"},
	{Name: "call.recording_available", Object: "Call", Since: "2.14 or earlier", sample: "call"},
	{Name: "call.started", Object: "Call", Since: "2.14 or earlier", sample: "call"},
	{Name: "call.transcription_available", Object: "Call", Since: "2.14 or earlier", sample: "call"},

	{Name: "company.contact.attached", Object: "Company, Contact", Since: "2.6", sample: "company_contact", Note: "item has neither type nor id, but company and contact"},
	{Name: "company.contact.detached", Object: "Company, Contact", Since: "2.6", sample: "company_contact", Note: "item has neither type nor id, but company and contact"},
	{Name: "company.created", Object: "Company", Since: "1.0", sample: "company", Note: "times are text in real ones, numbers in the docs"},
	{Name: "company.deleted", Object: "Company", Since: "2.7", sample: "company_deleted", Note: "identification only"},
	{Name: "company.updated", Object: "Company", Since: "2.7", sample: "company"},

	{Name: "contact.added_email", Object: "Lead", Since: "1.0", Until: "2.4", sample: "contact_lead", Note: "now contact.lead.added_email"},
	{Name: "contact.archive", Object: "Contact", Since: "2.5", Until: "2.5", sample: "contact_archived", Note: "docs of 2.5 only; now contact.archived"},
	{Name: "contact.archived", Object: "Contact", Since: "2.6", sample: "contact_archived", Note: "identification only"},
	{Name: "contact.created", Object: "Lead", Since: "1.0", Until: "2.4", sample: "contact_lead", Note: "now contact.lead.created"},
	{Name: "contact.deleted", Object: "Contact", Since: "1.0", sample: "contact_deleted", Note: "identification only"},
	{Name: "contact.email.updated", Object: "Contact", Since: "2.5", sample: "contact", Note: "was user.email.updated"},
	{Name: "contact.lead.added_email", Object: "Contact", Since: "2.5", sample: "contact_lead", Note: "was contact.added_email"},
	{Name: "contact.lead.created", Object: "Contact", Since: "2.5", sample: "contact_lead", Note: "was contact.created"},
	{Name: "contact.lead.signed_up", Object: "Contact", Since: "2.5", sample: "contact_lead", Note: "was contact.signed_up"},
	{Name: "contact.lead.tag.created", Object: "Contact Tag", Since: "2.5", sample: "contact_tag", Note: "was contact.tag.created; item has no id"},
	{Name: "contact.lead.tag.deleted", Object: "Contact Tag", Since: "2.5", sample: "contact_tag", Note: "was contact.tag.deleted; item has no id"},
	{Name: "contact.lead.updated", Object: "Contact", Since: "2.5", sample: "contact_lead"},
	{Name: "contact.merged", Object: "Contact", Since: "2.6", sample: "contact", Note: "docs: with merged_from; real ones: without"},
	{Name: "contact.signed_up", Object: "Lead", Since: "1.0", Until: "2.4", sample: "contact_lead", Note: "now contact.lead.signed_up"},
	{Name: "contact.subscribed", Object: "Subscription", Since: "2.7", sample: "contact_subscribe"},
	{Name: "contact.tag.created", Object: "Contact Tag", Since: "1.1", Until: "2.4", sample: "contact_tag", Note: "now contact.lead.tag.created"},
	{Name: "contact.tag.deleted", Object: "Contact Tag", Since: "1.1", Until: "2.4", sample: "contact_tag", Note: "now contact.lead.tag.deleted"},
	{Name: "contact.unarchive", Object: "Contact", Since: "2.6", sample: "contact", Note: "the name in the docs; real ones have contact.unarchived: route both"},
	{Name: "contact.unarchived", Object: "Contact", sample: "contact", Note: "not in the docs, which have contact.unarchive: route both"},
	{Name: "contact.unsubscribed", Object: "Subscription", Since: "2.5", sample: "contact_unsubscribe", Note: "from 2.7 the contact is in item.contact; item has no id"},
	{Name: "contact.unsubscribed_from_sms", Object: "Contact", Since: "2.5", Until: "2.5", sample: "contact", Note: "in the changelog of 2.5 only"},
	{Name: "contact.updated", Object: "Lead", Since: "1.0", Until: "1.0", sample: "contact_lead", Note: "docs of 1.0 only"},
	{Name: "contact.user.created", Object: "Contact", Since: "2.5", sample: "contact", Note: "was user.created"},
	{Name: "contact.user.tag.created", Object: "Contact Tag", Since: "2.5", sample: "contact_tag", Note: "was user.tag.created"},
	{Name: "contact.user.tag.deleted", Object: "Contact Tag", Since: "2.5", sample: "contact_tag", Note: "was user.tag.deleted"},
	{Name: "contact.user.updated", Object: "Contact", Since: "2.6", sample: "contact"},

	{Name: "content_import_source.created", Object: "Content Import Source", Since: "Preview", sample: "content_import_source", Note: "item.id is a number"},
	{Name: "content_import_source.deleted", Object: "Content Import Source", Since: "Preview", sample: "content_import_source_deleted", Note: "identification only; item.id is a number"},
	{Name: "content_import_source.updated", Object: "Content Import Source", Since: "Preview", sample: "content_import_source", Note: "item.id is a number"},

	{Name: "content_snippet.created", Object: "Content Snippet", Since: "Preview", sample: "content_snippet"},
	{Name: "content_snippet.deleted", Object: "Content Snippet", Since: "Preview", sample: "content_snippet_deleted", Note: "identification only"},
	{Name: "content_snippet.updated", Object: "Content Snippet", Since: "Preview", sample: "content_snippet"},

	{Name: "content_stat.banner", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.carousel", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.chat", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.checklist", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.custom_bot", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.email", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.news_item", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.post", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.push", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.series", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type; content_stat.series.webhook is a topic of its own"},
	{Name: "content_stat.series.webhook", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.sms", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.survey", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.tooltip_group", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},
	{Name: "content_stat.tour", Object: "Content Stat", Since: "2.6", sample: "content_stat", Note: "item has no id; what happened is in item.content_stat.stat_type"},

	{Name: "conversation.admin.assigned", Object: "Conversation", Since: "1.0", sample: "conversation"},
	{Name: "conversation.admin.closed", Object: "Conversation", Since: "1.0", sample: "conversation"},
	{Name: "conversation.admin.noted", Object: "Conversation", Since: "1.0", sample: "conversation"},
	{Name: "conversation.admin.open.assigned", Object: "Conversation", Since: "2.9 or earlier", sample: "conversation"},
	{Name: "conversation.admin.opened", Object: "Conversation", Since: "1.0", sample: "conversation"},
	{Name: "conversation.admin.replied", Object: "Conversation", Since: "1.0", sample: "conversation", Note: "from 2.9 not for tickets"},
	{Name: "conversation.admin.replied.translated", Object: "Conversation", Since: "2.16", sample: "conversation", Note: "from 2.16 or in Preview only: the docs disagree"},
	{Name: "conversation.admin.single.created", Object: "Conversation", Since: "1.0", sample: "conversation"},
	{Name: "conversation.admin.snoozed", Object: "Conversation", Since: "1.0", sample: "conversation"},
	{Name: "conversation.admin.unsnoozed", Object: "Conversation", Since: "1.0", sample: "conversation"},
	{Name: "conversation.company.updated", Object: "Conversation", Since: "2.15", sample: "conversation"},
	{Name: "conversation.contact.attached", Object: "Conversation, Contact", Since: "2.6", sample: "conversation_contact", Note: "item has neither type nor id, but conversation and contact"},
	{Name: "conversation.contact.detached", Object: "Conversation, Contact", Since: "2.6", sample: "conversation_contact", Note: "item has neither type nor id, but conversation and contact"},
	{Name: "conversation.deleted", Object: "Conversation", Since: "1.0", sample: "conversation_deleted", Note: "item has conversation_id instead of id"},
	{Name: "conversation.operator.replied", Object: "Conversation", Since: "2.14", sample: "conversation"},
	{Name: "conversation.priority.updated", Object: "Conversation", Since: "2.5", sample: "conversation"},
	{Name: "conversation.rating.added", Object: "Conversation", Since: "2.5", sample: "conversation"},
	{Name: "conversation.read", Object: "Conversation", Since: "2.14 or earlier", sample: "conversation"},
	{Name: "conversation.user.created", Object: "Conversation", Since: "1.0", sample: "conversation"},
	{Name: "conversation.user.replied", Object: "Conversation", Since: "1.0", sample: "conversation"},

	{Name: "conversation_part.redacted", Object: "Conversation Part", Since: "2.5", sample: "conversation", Note: "docs: a conversation part; real ones: a conversation"},
	{Name: "conversation_part.tag.created", Object: "Conversation Part", Since: "1.0", sample: "conversation", Note: "docs of 2.x: a conversation part; real ones: a conversation"},

	{Name: "data_connector.execution.completed", Object: "Data Connector Execution", Since: "2.15", sample: "data_connector_execution"},

	{Name: "event.created", Object: "Event", Since: "1.0", sample: "event", Note: "created_at of the notification was 0 once"},

	{Name: "granular.subscribe", Object: "Subscription", Since: "2.6", sample: "granular_subscribe"},
	{Name: "granular.unsubscribe", Object: "Subscription", Since: "2.5", sample: "granular_unsubscribe"},

	{Name: "job.completed", Object: "Job", Since: "2.14", sample: "job"},

	{Name: "ping", Object: "Ping", Since: "1.0", sample: "ping", Note: "sent to every app; has no id"},

	{Name: "procedure.hitl_notification.created", Object: "Procedure HITL Notification", Since: "Preview", sample: "procedure_hitl_notification", Note: "item has callback_url, and no id"},

	{Name: "ticket.admin.assigned", Object: "Ticket", Since: "2.9", sample: "ticket"},
	{Name: "ticket.admin.replied", Object: "Ticket", Since: "2.9", sample: "ticket"},
	{Name: "ticket.admin.replied.translated", Object: "Ticket", Since: "2.16", sample: "ticket", Note: "from 2.16 or in Preview only: the docs disagree"},
	{Name: "ticket.attribute.updated", Object: "Ticket", Since: "2.9", sample: "ticket"},
	{Name: "ticket.closed", Object: "Ticket", Since: "2.14 or earlier", sample: "ticket", Note: "until 2.14 it meant resolved; from 2.15 the docs put the ticket into item.ticket"},
	{Name: "ticket.contact.attached", Object: "Ticket", Since: "2.9", sample: "ticket"},
	{Name: "ticket.contact.detached", Object: "Ticket", Since: "2.9", sample: "ticket"},
	{Name: "ticket.contact.replied", Object: "Ticket", Since: "2.9", sample: "ticket_ticket_part", Note: "item has ticket and ticket_part, and no id"},
	{Name: "ticket.created", Object: "Ticket", Since: "2.9", sample: "ticket", Note: "one change of state can cause ticket.state.updated, too"},
	{Name: "ticket.note.created", Object: "Ticket", Since: "2.9", sample: "ticket"},
	{Name: "ticket.rating.provided", Object: "Ticket", Since: "2.14 or earlier", sample: "ticket"},
	{Name: "ticket.resolved", Object: "Ticket", Since: "2.15", sample: "ticket"},
	{Name: "ticket.state.updated", Object: "Ticket", Since: "2.9", sample: "ticket", Note: "one change of state can cause ticket.created, too"},
	{Name: "ticket.team.assigned", Object: "Ticket", Since: "2.9", sample: "ticket"},

	{Name: "user.created", Object: "User", Since: "1.0", Until: "2.4", sample: "user", Note: "now contact.user.created"},
	{Name: "user.deleted", Object: "User", Since: "1.0", Until: "2.4", sample: "user_deleted", Note: "now contact.deleted; identification only"},
	{Name: "user.email.updated", Object: "User", Since: "1.0", Until: "2.4", sample: "contact", Note: "now contact.email.updated; real ones have a contact"},
	{Name: "user.tag.created", Object: "User Tag", Since: "1.0", Until: "2.4", sample: "user_tag", Note: "now contact.user.tag.created; item has no id"},
	{Name: "user.tag.deleted", Object: "User Tag", Since: "1.0", Until: "2.4", sample: "user_tag", Note: "now contact.user.tag.deleted; item has no id"},
	{Name: "user.unsubscribed", Object: "User", Since: "1.0", Until: "2.4", sample: "contact", Note: "now contact.unsubscribed; real ones have a contact"},
	{Name: "user.unsubscribed_from_sms", Object: "User", Since: "1.0", Until: "2.4", sample: "user", Note: "docs of 1.0 only; then contact.unsubscribed_from_sms"},

	{Name: "visitor.signed_up", Object: "Visitor", Since: "1.0", sample: "user", Note: "real ones have a user"},
}
