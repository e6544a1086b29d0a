"""The dashboard: pages about pools and their jobs, made on the server, that renew themselves where scripts run."""
