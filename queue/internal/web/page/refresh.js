// Refreshes what is shown, while it is visible and nobody does anything with it, and shows times in the reader's zone.
"use strict";
const main = document.getElementById("main"), live = document.getElementById("live");
const two = (n) => String(n).padStart(2, "0");

// local returns a time in the reader's zone, in a form that the filters read.
function local(t) {
	const offset = -t.getTimezoneOffset(), east = Math.abs(offset);
	return `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())} ${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}` +
		`${offset < 0 ? "-" : "+"}${two(Math.floor(east / 60))}:${two(east % 60)}`;
}

function zones() {
	for (const time of main.querySelectorAll("time")) {
		const t = new Date(time.dateTime);
		if (t.getTimezoneOffset() === 0) continue;
		const utc = time.title || time.textContent;
		if (time.className === "ago") {
			time.title = `${local(t)} (${utc})`;
		} else {
			time.textContent = local(t);
			time.title = utc;
			time.insertAdjacentHTML("beforeend", ` <small>${utc.slice(11)}</small>`);
		}
	}
	if (live) live.textContent = "Times are in your zone, with UTC beside. The page refreshes itself.";
}

// busy reports whether somebody types, has chosen text, or has a dialog open.
function busy() {
	const at = document.activeElement;
	return document.hidden || /^(INPUT|SELECT|TEXTAREA)$/.test(at && at.tagName) || document.querySelector("dialog[open]") !== null ||
		!getSelection().isCollapsed;
}

let wait = 5000;
async function refresh() {
	if (!busy()) {
		try {
			const answer = await fetch(location.href, { headers: { "If-None-Match": main.dataset.tag, "X-Part": "main" }, redirect: "error" });
			if (answer.status === 200 && !busy()) {
				show(await answer.text());
				main.dataset.tag = answer.headers.get("ETag");
			}
			wait = answer.status === 200 ? 5000 : Math.min(wait * 2, 30000);
			if (answer.status !== 200 && answer.status !== 304) throw answer;
		} catch {
			wait = 30000;
			live.textContent = "The page could not be refreshed, and may be old.";
		}
	}
	setTimeout(refresh, wait);
}

// show replaces what is shown. What is folded stays so, and what has the focus keeps it.
function show(text) {
	const all = (what) => [...main.querySelectorAll(what)];
	const open = all("details").map((d) => d.open), links = "a,button,summary,[tabindex]";
	const focused = all(links).indexOf(document.activeElement);
	main.innerHTML = text;
	const now = all("details");
	if (now.length === open.length) now.forEach((d, i) => { d.open = open[i]; });
	if (focused >= 0) all(links)[focused]?.focus({ preventScroll: true });
	zones();
}

zones();
if (main.dataset.tag) setTimeout(refresh, wait);
document.addEventListener("visibilitychange", () => { wait = 5000; });
