"""What touches the operating system: processes, the event loop, runtime files, payload memory, host facts."""
