"""Where progress is kept. A tracker has track(id), remove(id), set_progress(id, value, message) and get_progress(id)."""
