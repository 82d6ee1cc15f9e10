-- bears: 0009
-- Look up events by their keys: a row for each key in the order given, of nulls where there is none.
-- A function of its own, since PostgreSQL 18 may not choose partitions, row by row, within a statement that locks rows
-- others change: when it looks at such a row once more it builds every CTE anew, and leaves the old ones' choice of
-- partitions pointing into memory that it frees.
-- The sum keeps the planner from the index of the feed, which begins with the account: for the table of a day that just
-- began, without statistics yet, that looks as good as the key, and then every look-up reads all of the account's events.
CREATE FUNCTION events_at(event_ids bytea[], accounts int[], environments text[], days date[])
RETURNS TABLE (event_type text, subject text, occurred_at timestamptz, body bytea)
LANGUAGE plpgsql STABLE ROWS 100 AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT e.event_type, e.subject, e.occurred_at, e.body
  FROM unnest(event_ids, accounts, environments, days) WITH ORDINALITY
       AS k(event_id, account_id, environment, event_day, place)
  LEFT JOIN LATERAL (
    SELECT v.event_type, v.subject, v.occurred_at, v.body FROM event v
    WHERE v.event_id = k.event_id AND v.account_id + 0 = k.account_id AND v.environment = k.environment
      AND v.event_day = k.event_day OFFSET 0) e ON true
  ORDER BY k.place;
END $$;

-- A host's row changes with every claim. While an old snapshot keeps the former versions, a full page sends the next one
-- elsewhere, with an entry in each index, and each unique index looks at every version that the row ever had before it
-- takes one more. With few rows to a page most versions stay where they are.
ALTER TABLE host SET (fillfactor = 10);
