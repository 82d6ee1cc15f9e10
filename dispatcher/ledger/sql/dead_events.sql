-- name: list_dead_events
-- Read a page of dead events, latest first. Index: dead_event_seen. $1..$5 only before this place, $6 rows.
-- Without a place everything is before the end of time: with an OR the kept plan would begin each page at the first.
SELECT log_id, topic, part, off, reason, detail, key, seen_at, redriven_at AS redrive_began_at, arrived_at AS redriven_at,
       sealed_value IS NOT NULL AS has_value
FROM dead_event
WHERE seen_at <= COALESCE($1::timestamptz, 'infinity')
  AND (seen_at, log_id, topic, part, off)
      < (COALESCE($1, 'infinity'), COALESCE($2::text, ''), COALESCE($3::text, ''), COALESCE($4::int, 0), COALESCE($5::bigint, 0))
ORDER BY seen_at DESC, log_id DESC, topic DESC, part DESC, off DESC LIMIT $6

-- name: find_dead_event
-- Read one dead event with its headers and its sealed value. Index: primary key.
SELECT log_id, topic, part, off, reason, detail, key, headers, sealed_value, seen_at,
       redriven_at AS redrive_began_at, arrived_at AS redriven_at, sealed_value IS NOT NULL AS has_value
FROM dead_event WHERE log_id = $1 AND topic = $2 AND part = $3 AND off = $4

-- name: find_dead_places
-- Read the logs in which one place of a topic holds a dead event; more than one after a topic was made anew.
SELECT log_id FROM dead_event WHERE topic = $1 AND part = $2 AND off = $3 ORDER BY seen_at DESC

-- name: take_dead_event
-- Mark the redrive of a dead event as begun and read it; no row when it is not there, when Kafka has it, or when a redrive
-- began less than $5 seconds ago: two takers never both get it, and one that died keeps it from nobody for long.
UPDATE dead_event SET redriven_at = now()
WHERE log_id = $1 AND topic = $2 AND part = $3 AND off = $4
  AND arrived_at IS NULL AND (redriven_at IS NULL OR redriven_at <= now() - make_interval(secs => $5))
RETURNING log_id, topic, part, off, reason, detail, key, headers, sealed_value, seen_at,
          redriven_at AS redrive_began_at, arrived_at AS redriven_at, sealed_value IS NOT NULL AS has_value

-- name: untaken_dead_event
-- Read why `take_dead_event` gave nothing: Kafka has it, or how many of the $5 seconds are left. Index: primary key.
SELECT arrived_at IS NOT NULL AS has_arrived,
       COALESCE(EXTRACT(epoch FROM redriven_at - now())::float8 + $5::float8, 0) AS seconds_left
FROM dead_event WHERE log_id = $1 AND topic = $2 AND part = $3 AND off = $4

-- name: acknowledge_dead_event
-- Note that Kafka has what was redriven.
UPDATE dead_event SET arrived_at = now() WHERE log_id = $1 AND topic = $2 AND part = $3 AND off = $4

-- name: put_back_dead_event
-- Take off the mark of the redrive that began at $5, and of no other: it did not reach Kafka.
UPDATE dead_event SET redriven_at = NULL
WHERE log_id = $1 AND topic = $2 AND part = $3 AND off = $4 AND redriven_at = $5

-- name: discard_dead_event
-- Delete a dead event for good; no row when it is not there.
DELETE FROM dead_event WHERE log_id = $1 AND topic = $2 AND part = $3 AND off = $4 RETURNING off
