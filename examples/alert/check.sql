-- What is wrong, if anything: PostgreSQL's own computation over the topic, with
-- none of our functions.
CREATE TEMP TABLE topic AS SELECT * FROM requests;

SELECT 'the topic has not all of the script' WHERE (SELECT count(*) FROM topic) <> (SELECT count(*) FROM script);

CREATE TEMP TABLE truth AS
SELECT service, tstzrange(start, start + interval '1 minute') AS win,
	count(*) AS requests, count(*) FILTER (WHERE status >= 500) AS errors,
	round(100.0 * count(*) FILTER (WHERE status >= 500) / count(*), 1) AS percent
FROM topic, date_bin('20 seconds', ts, '2000-01-01Z') AS last,
	generate_series(last - interval '40 seconds', last, '20 seconds') AS start
GROUP BY service, start
HAVING count(*) >= 100 AND count(*) FILTER (WHERE status >= 500) > 0.05 * count(*);

(TABLE truth EXCEPT ALL TABLE error_rate) UNION ALL (TABLE error_rate EXCEPT ALL TABLE truth);
SELECT 'checkout was in trouble' WHERE NOT EXISTS (SELECT FROM truth WHERE service = 'checkout');
SELECT 'search was not' WHERE EXISTS (SELECT FROM truth WHERE service = 'search');

-- What the listener has printed: alerts that stand are the rows of the view.
CREATE TEMP TABLE printed (n serial, line text);
COPY printed (line) FROM :'alerts';
CREATE TEMP VIEW said AS
SELECT n, w[1] AS word, w[2] AS service, w[3]::time AS since FROM printed, string_to_array(line, ' ') AS w;

(SELECT service, lower(win)::time FROM truth
 EXCEPT ALL SELECT service, since FROM said GROUP BY 1, 2 HAVING sum(CASE word WHEN 'ALERT' THEN 1 ELSE -1 END) = 1);
(SELECT service, since FROM said GROUP BY 1, 2 HAVING sum(CASE word WHEN 'ALERT' THEN 1 ELSE -1 END) <> 0
 EXCEPT ALL SELECT service, lower(win)::time FROM truth);
SELECT 'nothing was cleared' WHERE NOT EXISTS (SELECT FROM said WHERE word = 'CLEAR' AND service = 'search');
