-- Forty minutes in a shop of 500 items, made up: a few bestsellers; at 12:10 a
-- newspaper writes about item 77, whose fame lasts a quarter of an hour.
SELECT setseed(0.5) \g /dev/null

CREATE TABLE script AS
SELECT CASE WHEN random() < fame THEN 77 ELSE 1 + (499 * random() ^ 3)::int END AS item,
	(10000 * random())::int AS user_id,
	ts, ts + 10 * random() * interval '1 second' AS arrival
FROM (
	SELECT ts, greatest(0, 0.4 * sin(pi() * extract(epoch FROM ts - '2025-06-02 12:10Z') / 900)
		* (ts < '2025-06-02 12:25Z')::int) AS fame
	FROM (SELECT timestamptz '2025-06-02 12:00Z' + n * interval '0.12 seconds' FROM generate_series(0, 19900) AS n) AS t (ts)
) AS e;

-- What was shown, for the check at the end.
CREATE TABLE shown (place bigint, item int, views bigint, win tstzrange);
