"""Results to one self-contained HTML page; nothing here reads files or knows where results are."""
