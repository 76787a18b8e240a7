-- An hour and a half of clicks, made up: few users click much, and one click in
-- twenty arrives late, some so late that its window has closed.
SELECT setseed(0.5) \g /dev/null

CREATE TABLE script AS
SELECT user_id, page, ts, ts + delay AS arrival
FROM (
	SELECT 1 + (199 * random() ^ 2)::int AS user_id,
		(ARRAY['/', '/', '/search', '/search', '/item', '/cart', '/buy'])[1 + floor(7 * random())] AS page,
		timestamptz '2025-06-02 08:00Z' + n * interval '0.27 seconds' AS ts,
		CASE WHEN random() < 0.95 THEN 2 ELSE 300 END * random() * interval '1 second' AS delay
	FROM generate_series(0, 19999) AS n
) AS e;
