"""Who may see and do what: each module is one gate, and is closed unless somebody opens it."""
