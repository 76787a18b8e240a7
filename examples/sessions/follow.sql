-- Brings the copy up to date: reads what the changelog has since the last time,
-- takes back what was taken back and adds what is new.  Run it as often as you
-- like: the copy and the place in the changelog move in one transaction.
BEGIN;

SELECT last FROM reader FOR UPDATE \gset
SELECT coalesce(max(weir_seq), :last) AS upto FROM sessions_changes WHERE weir_seq > :last \gset

CREATE TEMP TABLE news ON COMMIT DROP AS
SELECT user_id, visit, events, payments, sum(weir_diff) AS times
FROM sessions_changes
WHERE weir_seq > :last AND weir_seq <= :upto
GROUP BY user_id, visit, events, payments;

DELETE FROM visits AS v USING news AS n
WHERE (v.user_id, v.visit, v.events, v.payments) = (n.user_id, n.visit, n.events, n.payments) AND n.times = -1;

INSERT INTO visits SELECT user_id, visit, events, payments FROM news WHERE times = 1;

UPDATE reader SET last = :upto;

COMMIT;
