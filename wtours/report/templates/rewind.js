// A past step: what shared.js does is all that it needs.
