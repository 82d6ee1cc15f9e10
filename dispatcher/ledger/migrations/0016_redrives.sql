-- bears: 0013
-- A redrive that was cut off can be done again: that it began is one thing, that Kafka has the record another.
-- `redriven_at` stays what it was for the programs of before, which set it when they begin: beside them, and for rows that
-- they marked and then perhaps lost, it says no more than that. Such rows can be redriven once more, which is harmless:
-- the events of a record that Kafka has twice are one.

ALTER TABLE dead_event ADD COLUMN arrived_at timestamptz;   -- Kafka acknowledged what was redriven; redriven_at: it began
