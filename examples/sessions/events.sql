-- Two days in an app, made up.  A user comes a few times a day and
-- does something every few minutes; one event in twelve happens out of reach and
-- arrives when the phone is back, within a day.
SELECT setseed(0.5) \g /dev/null

CREATE TABLE script AS
WITH visit AS MATERIALIZED (
	SELECT 1 + (149 * random())::int AS user_id,
		timestamptz '2025-06-02 00:00Z' + random() * interval '48 hours' AS began,
		(1 + 20 * random())::int AS events
	FROM generate_series(1, 800)
), event AS MATERIALIZED (
	SELECT user_id, (ARRAY['home', 'list', 'item', 'pay'])[1 + floor(4 * random())] AS screen,
		began + sum(-ln(1 - random()) * interval '9 minutes') OVER (PARTITION BY user_id, began ORDER BY n) AS ts,
		random() AS luck, random() AS delay
	FROM visit, generate_series(1, events) AS n
)
SELECT user_id, screen, ts,
	ts + delay * CASE WHEN luck < 0.08 THEN interval '24 hours' ELSE interval '1 minute' END AS arrival
FROM event
UNION ALL
-- and a phone that was found two days later
SELECT 1000, 'home', '2025-06-02 09:00Z', '2025-06-04 09:00Z';
