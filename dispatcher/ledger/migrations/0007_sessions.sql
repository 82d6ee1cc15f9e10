-- bears: 0006
-- Which sessions are whose, so that those of a dead replica can be ended.

ALTER TABLE replica ADD COLUMN session_tag text;   -- ends the application_name of its sessions; NULL: of an older release
