"""`tfhf demo`: a page in the browser where people try an exported model; see `command`."""
