// Package intercom has the facts about Intercom's webhooks that other packages share:
// the known topics and a sample of each, the limits, and the signature headers.
package intercom

import (
	"maps"
	"slices"
)

// TopicPing is the topic of the notification that Intercom sends to test an endpoint.
const TopicPing = "ping"

// Topics returns every known topic, sorted.
func Topics() []string { return slices.Sorted(maps.Keys(samplesByTopic)) }

// IsKnown reports whether Intercom is known to send notifications of the topic.
func IsKnown(topic string) bool {
	_, known := samplesByTopic[topic]
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

// samplesByTopic maps each known topic to the sample of the object that its
// notification carries (samples/<name>.json).
//
// It has the topics that Intercom's docs list for the API versions 1.0 to 2.17 and
// Preview, and those of captured notifications ("wire"). Where the two disagree about
// a name, it has both names. Where they disagree about the object, the sample has the
// shape of the captured one. A 1.x topic whose object was never captured has the sample
// of its successor.
//
// Intercom adds topics without notice, so this list must not decide whether a
// notification is accepted.
// Source: https://developers.intercom.com/docs/references/webhooks/webhook-models
var samplesByTopic = map[string]string{
	"admin.activity_log_event.created": "admin_activity_log_event", // docs: an admin; wire: a type of its own
	"admin.added_to_workspace":         "admin",
	"admin.away_mode_updated":          "admin",
	"admin.logged_in":                  "admin",
	"admin.logged_out":                 "admin",
	"admin.removed_from_workspace":     "admin",

	"api.request.completed": "api_request",

	"article.created":     "article",
	"article.deleted":     "article", // docs: identification only; wire: the whole article
	"article.published":   "article",
	"article.unpublished": "article",
	"article.updated":     "article",

	"audience.created":        "audience",
	"audience.deleted":        "audience_deleted",
	"audience.member_added":   "audience_membership",
	"audience.member_removed": "audience_membership",
	"audience.updated":        "audience",

	"call.ended":                   "call",
	"call.recording_available":     "call",
	"call.started":                 "call",
	"call.transcription_available": "call",

	"company.contact.attached": "company_contact",
	"company.contact.detached": "company_contact",
	"company.created":          "company",
	"company.deleted":          "company_deleted",
	"company.updated":          "company",

	"contact.added_email":           "contact_lead",     // 1.x, now contact.lead.added_email
	"contact.archive":               "contact_archived", // docs of 2.5 only, contact.archived since
	"contact.archived":              "contact_archived",
	"contact.created":               "contact_lead", // 1.x, now contact.lead.created
	"contact.deleted":               "contact_deleted",
	"contact.email.updated":         "contact",
	"contact.lead.added_email":      "contact_lead",
	"contact.lead.created":          "contact_lead",
	"contact.lead.signed_up":        "contact_lead",
	"contact.lead.tag.created":      "contact_tag",
	"contact.lead.tag.deleted":      "contact_tag",
	"contact.lead.updated":          "contact_lead",
	"contact.merged":                "contact",      // docs: with merged_from; wire: without
	"contact.signed_up":             "contact_lead", // 1.x, now contact.lead.signed_up
	"contact.subscribed":            "contact_subscribe",
	"contact.tag.created":           "contact_tag", // 1.x, now contact.lead.tag.created
	"contact.tag.deleted":           "contact_tag", // 1.x, now contact.lead.tag.deleted
	"contact.unarchive":             "contact",     // docs of 2.6 and later
	"contact.unarchived":            "contact",     // wire, not in the docs
	"contact.unsubscribed":          "contact_unsubscribe",
	"contact.unsubscribed_from_sms": "contact",      // changelog of 2.5 only
	"contact.updated":               "contact_lead", // 1.0 only
	"contact.user.created":          "contact",
	"contact.user.tag.created":      "contact_tag",
	"contact.user.tag.deleted":      "contact_tag",
	"contact.user.updated":          "contact",

	"content_import_source.created": "content_import_source",
	"content_import_source.deleted": "content_import_source_deleted",
	"content_import_source.updated": "content_import_source",

	"content_snippet.created": "content_snippet",
	"content_snippet.deleted": "content_snippet_deleted",
	"content_snippet.updated": "content_snippet",

	"content_stat.banner":         "content_stat",
	"content_stat.carousel":       "content_stat",
	"content_stat.chat":           "content_stat",
	"content_stat.checklist":      "content_stat",
	"content_stat.custom_bot":     "content_stat",
	"content_stat.email":          "content_stat",
	"content_stat.news_item":      "content_stat",
	"content_stat.post":           "content_stat",
	"content_stat.push":           "content_stat",
	"content_stat.series":         "content_stat",
	"content_stat.series.webhook": "content_stat",
	"content_stat.sms":            "content_stat",
	"content_stat.survey":         "content_stat",
	"content_stat.tooltip_group":  "content_stat",
	"content_stat.tour":           "content_stat",

	"conversation.admin.assigned":           "conversation",
	"conversation.admin.closed":             "conversation",
	"conversation.admin.noted":              "conversation",
	"conversation.admin.open.assigned":      "conversation",
	"conversation.admin.opened":             "conversation",
	"conversation.admin.replied":            "conversation",
	"conversation.admin.replied.translated": "conversation",
	"conversation.admin.single.created":     "conversation",
	"conversation.admin.snoozed":            "conversation",
	"conversation.admin.unsnoozed":          "conversation",
	"conversation.company.updated":          "conversation",
	"conversation.contact.attached":         "conversation_contact",
	"conversation.contact.detached":         "conversation_contact",
	"conversation.deleted":                  "conversation_deleted",
	"conversation.operator.replied":         "conversation",
	"conversation.priority.updated":         "conversation",
	"conversation.rating.added":             "conversation",
	"conversation.read":                     "conversation",
	"conversation.user.created":             "conversation",
	"conversation.user.replied":             "conversation",

	"conversation_part.redacted":    "conversation", // docs: a conversation part; wire: a conversation
	"conversation_part.tag.created": "conversation", // docs of 2.x: a conversation part; wire: a conversation

	"data_connector.execution.completed": "data_connector_execution",

	"event.created": "event",

	"granular.subscribe":   "granular_subscribe",
	"granular.unsubscribe": "granular_unsubscribe",

	"job.completed": "job",

	"ping": "ping",

	"procedure.hitl_notification.created": "procedure_hitl_notification",

	"ticket.admin.assigned":           "ticket",
	"ticket.admin.replied":            "ticket",
	"ticket.admin.replied.translated": "ticket",
	"ticket.attribute.updated":        "ticket",
	"ticket.closed":                   "ticket", // docs of 2.15 and later: nested in item.ticket; wire: not nested
	"ticket.contact.attached":         "ticket",
	"ticket.contact.detached":         "ticket",
	"ticket.contact.replied":          "ticket_ticket_part",
	"ticket.created":                  "ticket",
	"ticket.note.created":             "ticket",
	"ticket.rating.provided":          "ticket",
	"ticket.resolved":                 "ticket",
	"ticket.state.updated":            "ticket",
	"ticket.team.assigned":            "ticket",

	"user.created":               "user",         // 1.x, now contact.user.created
	"user.deleted":               "user_deleted", // 1.x, now contact.deleted
	"user.email.updated":         "contact",      // 1.x, now contact.email.updated; wire: a contact
	"user.tag.created":           "user_tag",     // 1.x, now contact.user.tag.created
	"user.tag.deleted":           "user_tag",     // 1.x, now contact.user.tag.deleted
	"user.unsubscribed":          "contact",      // 1.x, now contact.unsubscribed; wire: a contact
	"user.unsubscribed_from_sms": "user",         // 1.0 only, then contact.unsubscribed_from_sms

	"visitor.signed_up": "user", // docs: a visitor; wire: a user
}
