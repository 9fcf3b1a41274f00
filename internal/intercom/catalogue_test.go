package intercom

import (
	"slices"
	"strings"
	"testing"
)

func TestCatalogueIsSortedAndComplete(t *testing.T) {
	topics := Catalogue()
	if !slices.IsSortedFunc(topics, func(a, b Topic) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("is not sorted by name, so topics are not found")
	}
	for _, topic := range topics {
		if !IsKnown(topic.Name) {
			t.Errorf("%s is not found", topic.Name)
		}
		if topic.Object == "" || topic.sample == "" {
			t.Errorf("%s has no object or no sample", topic.Name)
		}
		if topic.Since == "" && topic.Note == "" {
			t.Errorf("%s does not say where it is known from", topic.Name)
		}
		for _, word := range strings.FieldsFunc(topic.Note, func(r rune) bool { return strings.ContainsRune(" ,;:", r) }) {
			if strings.Count(word, ".") >= 2 && !IsKnown(word) && !strings.HasPrefix(word, "item.") {
				t.Errorf("the note of %s names %s, which is no topic", topic.Name, word)
			}
		}
	}
	if IsKnown("conversation.user.vanished") || IsKnown("") {
		t.Error("an unknown topic is known")
	}
}
